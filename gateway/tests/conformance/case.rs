//! The files of cases.
//!
//! ```text
//! # a comment
//! [three two]            the messages that the following cases are for
//! Name required          a case, its level, and perhaps `ignore` (unknown fields)
//! <JSON                  goes in (more such lines continue it)
//! xHEX                   or: these wire bytes go in
//! =TEXT                  is what it means, in protobuf's text format; alone, it is what goes in
//! >JSON                  is what comes out, exactly; without it, what comes out must mean the same
//! !ERROR                 is why nothing comes out
//! ```
//! `$M` stands for the package of the message.

#[derive(Clone, Default)]
pub struct Case {
    pub name: String,
    pub level: String,
    pub messages: Vec<String>,
    pub ignore: bool,
    pub json: Option<String>,
    pub wire: Option<Vec<u8>>,
    pub text: Option<String>,
    pub printed: Option<String>,
    pub error: Option<String>,
}

impl Case {
    /// The case for one of its messages.
    pub fn with(&self, message: &str) -> Self {
        let package = format!("conformance.{message}");
        let fill = |text: &Option<String>| text.as_ref().map(|t| t.replace("$M", &package));
        Self {
            json: fill(&self.json),
            text: fill(&self.text),
            printed: fill(&self.printed),
            error: fill(&self.error),
            ..self.clone()
        }
    }
}

pub fn parse(text: &str) -> Vec<Case> {
    let (mut cases, mut messages): (Vec<Case>, Vec<String>) = (Vec::new(), Vec::new());
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(list) = line.strip_prefix('[') {
            messages = list.trim_end_matches(']').split(' ').map(str::to_owned).collect();
            continue;
        }
        let (mark, rest) = line.split_at(1);
        let slot = match (mark, cases.last_mut()) {
            ("<", Some(case)) => &mut case.json,
            ("=", Some(case)) => &mut case.text,
            (">", Some(case)) => &mut case.printed,
            ("!", Some(case)) => &mut case.error,
            ("x", Some(case)) => {
                case.wire = Some(hex(rest));
                continue;
            }
            _ => {
                let mut words = line.split(' ').map(str::to_owned);
                let (name, level) = (words.next().unwrap_or_default(), words.next().expect("a level"));
                assert!(["required", "recommended", "own"].contains(&level.as_str()), "{line}");
                let ignore = words.next().is_some_and(|w| w == "ignore");
                cases.push(Case { name, level, ignore, messages: messages.clone(), ..Case::default() });
                continue;
            }
        };
        match slot {
            Some(text) => text.extend(["\n", rest]),
            None => *slot = Some(rest.to_owned()),
        }
    }
    cases
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}
