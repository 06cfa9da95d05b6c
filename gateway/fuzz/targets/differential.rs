//! Wire bytes mean to prost-reflect what our JSON of them means to it once we have read that again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost_reflect::DynamicMessage;
use rialto_gateway_fuzz::{POOL, choose, print};
use serde_json::Value;

/// prost-reflect prints a `NullValue` without presence if its number is not zero, which has no meaning.
fn forget_null(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| name != "optionalNullValue");
            members.values_mut().for_each(forget_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_null),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((message, id, codec, wire)) = choose(data) else { return };
    let Some(descriptor) = POOL.get_message_by_name(message) else { return };
    let Ok(printed) = print(codec, id, wire) else { return };
    // As JSON, so that a NaN equals itself and unknown fields do not count. It refuses what we do not, for example a
    // depth that we count otherwise.
    let meaning = |wire: &[u8]| -> Result<Value, String> {
        let message = DynamicMessage::decode(descriptor.clone(), wire).map_err(|e| e.to_string())?;
        let mut value = serde_json::to_value(message).map_err(|e| e.to_string())?;
        forget_null(&mut value);
        Ok(value)
    };
    let Ok(expected) = meaning(wire) else { return };
    let again = codec.json_to_wire(id, printed.as_bytes()).unwrap_or_else(|e| panic!("{e}: {printed}"));
    let ours = meaning(&again);
    assert_eq!(ours.as_ref(), Ok(&expected), "{printed}");
});
