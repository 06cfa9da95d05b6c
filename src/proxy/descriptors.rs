//! The contract as one `FileDescriptorSet`, from files or from what upstreams tell of themselves. Files stay the bytes that
//! they were: decoding them with generated types would drop the options that make the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use prost::Message;
use prost_types::FileDescriptorProto;
use rialto_gateway::prost_reflect::DescriptorPool;

/// A `FileDescriptorSet` whose files stay encoded.
#[derive(Clone, PartialEq, Message)]
struct RawSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    files: Vec<Vec<u8>>,
}

/// A file, and where it comes from.
struct File {
    bytes: Vec<u8>,
    parsed: FileDescriptorProto,
    source: String,
}

/// Files by name.
#[derive(Default)]
pub struct Files(BTreeMap<String, File>);

impl Files {
    /// Reads encoded `FileDescriptorSet`s.
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut files = Self::default();
        for path in paths {
            let source = path.display().to_string();
            let bytes = std::fs::read(path).with_context(|| source.clone())?;
            let not_a_set =
                || format!("{source} is not an encoded FileDescriptorSet (`protoc -o` or `buf build -o` make one)");
            let set = RawSet::decode(bytes.as_slice()).with_context(not_a_set)?;
            ensure!(!set.files.is_empty(), not_a_set());
            for file in set.files {
                files.add(file, &source).with_context(not_a_set)?;
            }
        }
        Ok(files)
    }

    /// Adds an encoded `FileDescriptorProto`; returns its name. A file that is there already must be the same.
    pub fn add(&mut self, bytes: Vec<u8>, source: &str) -> anyhow::Result<String> {
        let parsed = FileDescriptorProto::decode(bytes.as_slice()).context("a file descriptor can't be read")?;
        let name = parsed.name().to_owned();
        match self.0.get(&name) {
            None => {
                self.0.insert(name.clone(), File { bytes, parsed, source: source.to_owned() });
            }
            Some(known) => ensure!(
                known.is_same(&bytes, &parsed),
                "{name} of {source} is not the same as that of {}",
                known.source
            ),
        }
        Ok(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The file, if it is there.
    pub fn imports(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(|file| file.parsed.dependency.as_slice())
    }

    /// The names of the services in all files.
    pub fn services(&self) -> BTreeSet<String> {
        let of = |file: &FileDescriptorProto| {
            let package = file.package().to_owned();
            let names = file.service.iter().map(|service| service.name().to_owned()).collect::<Vec<_>>();
            names.into_iter().map(move |name| if package.is_empty() { name } else { format!("{package}.{name}") })
        };
        self.0.values().flat_map(|file| of(&file.parsed)).collect()
    }

    /// Encodes them, imports first, and checks that they are complete and consistent.
    pub fn encode(self) -> anyhow::Result<(Vec<u8>, DescriptorPool)> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for name in self.0.keys() {
            self.visit(name, &mut seen, &mut ordered)?;
        }
        let bytes = RawSet { files: ordered }.encode_to_vec();
        let pool = DescriptorPool::decode(bytes.as_slice()).context("the descriptors contradict each other")?;
        Ok((bytes, pool))
    }

    /// Depth first, with a stack of its own: chains of imports are as long as their authors like.
    fn visit<'f>(
        &'f self,
        root: &'f str,
        seen: &mut BTreeSet<&'f str>,
        ordered: &mut Vec<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let mut stack = vec![(root, false)];
        while let Some((name, imports_done)) = stack.pop() {
            let Some(file) = self.0.get(name) else { continue };
            if imports_done {
                ordered.push(file.bytes.clone());
                continue;
            }
            if !seen.insert(name) {
                continue;
            }
            stack.push((name, true));
            for import in &file.parsed.dependency {
                if !self.0.contains_key(import) {
                    bail!(
                        "{} lacks {import}, which {name} imports: make it with all imports \
                         (`protoc --include_imports`; `buf build` does)",
                        file.source
                    );
                }
                stack.push((import, false));
            }
        }
        Ok(())
    }
}

impl File {
    /// Servers in different languages carry the same file with other file options (`go_package`) or without comments, and
    /// `google/protobuf` in other versions; that does not matter. The options of methods do, and are only in the bytes.
    fn is_same(&self, bytes: &[u8], parsed: &FileDescriptorProto) -> bool {
        let plain =
            |file: &FileDescriptorProto| FileDescriptorProto { options: None, source_code_info: None, ..file.clone() };
        self.bytes == bytes
            || parsed.name().starts_with("google/protobuf/")
            || (parsed.service.is_empty() && plain(&self.parsed) == plain(parsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, imports: &[&str], package: &str) -> FileDescriptorProto {
        FileDescriptorProto {
            name: Some(name.into()),
            package: Some(package.into()),
            dependency: imports.iter().map(|import| (*import).into()).collect(),
            ..Default::default()
        }
    }

    fn added(files: &[FileDescriptorProto]) -> anyhow::Result<Files> {
        let mut all = Files::default();
        for (i, file) in files.iter().enumerate() {
            all.add(file.encode_to_vec(), &format!("source {i}"))?;
        }
        Ok(all)
    }

    #[test]
    fn imports_come_first_whatever_the_order_was() {
        let files = added(&[file("a", &["b", "c"], ""), file("c", &[], ""), file("b", &["c"], "")]).unwrap();
        let set = RawSet::decode(files.encode().unwrap().0.as_slice()).unwrap();
        let names = set.files.iter().map(|f| FileDescriptorProto::decode(f.as_slice()).unwrap().name().to_owned());
        assert_eq!(names.collect::<Vec<_>>(), ["c", "b", "a"]);
    }

    #[test]
    fn a_missing_import_is_named_and_so_is_who_wants_it() {
        let error =
            added(&[file("a", &["google/api/annotations.proto"], "")]).unwrap().encode().unwrap_err().to_string();
        assert!(error.contains("google/api/annotations.proto, which a imports"), "{error}");
    }

    #[test]
    fn files_that_differ_are_refused_unless_the_difference_is_none_of_the_contract() {
        let service = |name: &str| FileDescriptorProto {
            service: vec![prost_types::ServiceDescriptorProto { name: Some(name.into()), ..Default::default() }],
            ..file("a", &[], "p")
        };
        let error = added(&[file("a", &[], "p"), file("a", &[], "q")]).err().unwrap().to_string();
        assert_eq!(error, "a of source 1 is not the same as that of source 0");
        assert!(added(&[service("A"), service("B")]).is_err());
        assert!(added(&[service("A"), service("A")]).is_ok());
        let with_options = FileDescriptorProto { options: Some(Default::default()), ..file("a", &[], "p") };
        assert!(added(&[file("a", &[], "p"), with_options]).is_ok());
        let known = "google/protobuf/descriptor.proto";
        assert!(added(&[file(known, &[], "p"), file(known, &[], "q")]).is_ok());
    }

    #[test]
    fn services_have_full_names() {
        let mut root = file("a", &[], "");
        root.service = vec![prost_types::ServiceDescriptorProto { name: Some("S".into()), ..Default::default() }];
        let inner = FileDescriptorProto { service: root.service.clone(), ..file("b", &[], "p.q") };
        let names = added(&[root, inner]).unwrap().services();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["S", "p.q.S"]);
    }

    #[test]
    fn what_is_not_a_descriptor_set_is_refused_by_name() {
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "syntax = \"proto3\";").unwrap();
        let error = format!("{:#}", Files::read(&[text.path().to_owned()]).err().unwrap());
        assert!(error.contains("is not an encoded FileDescriptorSet") && error.contains("protoc -o"), "{error}");
    }
}
