//! Writes the seed corpora below `corpus`: what goes in and comes out in the conformance cases, and some templates with
//! paths. A target like the others, because only those link what the coverage flags ask for; it does its work at start.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rialto_gateway_fuzz::choose;

const CASES: [&str; 6] = [
    include_str!("../../tests/conformance/cases/names.txt"),
    include_str!("../../tests/conformance/cases/scalars.txt"),
    include_str!("../../tests/conformance/cases/lists.txt"),
    include_str!("../../tests/conformance/cases/known.txt"),
    include_str!("../../tests/conformance/cases/any.txt"),
    include_str!("../../tests/conformance/cases/own.txt"),
];

const ROUTES: [&str; 12] = [
    "/v1/{name}\n/v1/a%2Fb%20c?n=1&kind=KIND_ONE&list=a&list=b&map[x]=true",
    "/v1/{name=**}\n/v1/a/b%2Fc/d",
    "/v1/{name=shelves/*/books/**}:read\n/v1/shelves/1/books/2/3:read",
    "/v1/{inner.name=a/*}/{text}:verb\n/v1/a/%C3%A9/x:verb?inner.n=-1&data=-_",
    "/v1/*/x/{n}\n/v1/y/x/12?inner.inner.number=1e5",
    "/v1/**\n/v1/?number=NaN",
    "/{name}\n//",
    "/v1/{kind}\n/v1/KIND_ONE",
    "/v1/{list}\n/v1/x",
    "/v1/{name=**}/x\n/v1/a",
    "/v1/{name=}}{\n/v1/%",
    "/a:b/{name}:c\n/a:b/d:c?text=+%2B",
];

fuzz_target!(init: { write_all().expect("corpus") }, |_data: &[u8]| {});

fn write_all() -> std::io::Result<()> {
    let write = |target: &str, i: usize, seed: &[u8]| {
        let folder = Path::new("corpus").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{i}")), seed)
    };
    let inputs = CASES.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix('<'));
    for (i, json) in inputs.enumerate() {
        let json = json.replace("$M", "conformance.three_editions");
        for message in 0..2 {
            let seed = [&[message], json.as_bytes()].concat();
            write("json_to_wire", 2 * i + usize::from(message), &seed)?;
            let Some((_, id, codec, json)) = choose(&seed) else { continue };
            if let Ok(wire) = codec.json_to_wire(id, json) {
                let seed = [&[message], wire.as_slice()].concat();
                write("wire_to_json", 2 * i + usize::from(message), &seed)?;
                write("differential", 2 * i + usize::from(message), &seed)?;
            }
        }
    }
    for (i, route) in ROUTES.iter().enumerate() {
        write("route", i, route.as_bytes())?;
    }
    Ok(())
}
