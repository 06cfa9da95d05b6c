//! JSON to wire: whatever is read can be printed, and comes back the same from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rialto_gateway_fuzz::{choose, print, survives};

fuzz_target!(|data: &[u8]| {
    let Some((_, id, codec, json)) = choose(data) else { return };
    if let Ok(wire) = codec.json_to_wire(id, json) {
        let printed = print(codec, id, &wire).unwrap_or_else(|e| panic!("{e}: {wire:x?}"));
        survives(codec, id, &printed);
    }
});
