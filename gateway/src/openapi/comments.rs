//! Comments of the `.proto` files, by file and descriptor path.

use std::collections::HashMap;

use prost_reflect::DescriptorPool;

pub(super) struct Comments(HashMap<String, HashMap<Vec<i32>, String>>);

impl Comments {
    pub fn new(pool: &DescriptorPool) -> Self {
        let mut files = HashMap::new();
        for file in pool.files() {
            let Some(info) = &file.file_descriptor_proto().source_code_info else { continue };
            let comments = info.location.iter().filter_map(|location| {
                let text = location.leading_comments.as_deref().or(location.trailing_comments.as_deref())?;
                Some((location.path.clone(), tidy(text)))
            });
            files.insert(file.name().to_owned(), comments.collect());
        }
        Self(files)
    }

    /// Empty if there is none.
    pub fn get(&self, file: &str, path: &[i32]) -> &str {
        self.0.get(file).and_then(|file| file.get(path)).map_or("", String::as_str)
    }
}

/// Without the blank that follows the comment marker.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end()).collect();
    lines.join("\n").trim().to_owned()
}

/// The first sentence, for a heading, and the whole if there is more than that.
pub(super) fn split(text: &str) -> (String, String) {
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let sentence = paragraph.split_once(". ").map_or(paragraph.as_str(), |(first, _)| first);
    let summary = sentence.trim_end_matches('.').to_owned();
    let rest = if text.trim_end_matches('.') == summary { String::new() } else { text.to_owned() };
    (summary, rest)
}
