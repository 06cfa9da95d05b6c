//! Wire to JSON: whatever is printed can be read, and comes back the same from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rialto_gateway_fuzz::{choose, print, survives};

fuzz_target!(|data: &[u8]| {
    let Some((_, id, codec, wire)) = choose(data) else { return };
    if let Ok(printed) = print(codec, id, wire) {
        survives(codec, id, &printed);
    }
});
