//! The names that people give themselves.

/// Characters that turn the direction of what follows, also outside of the name (Unicode Standard Annex 9), or end its line.
const UNRULY: [std::ops::RangeInclusive<char>; 3] =
    ['\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}', '\u{2028}'..='\u{2029}'];

/// Characters that show nothing. They may join others, as in many emoji, but make no name.
const INVISIBLE: [std::ops::RangeInclusive<char>; 11] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
];

/// A name as it is stored, or what is wrong with it. Which letters it has is its owner's business: names are not unique, and
/// handles, which are, have ASCII only.
pub fn display_name(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters");
    }
    if text.chars().any(|c| UNRULY.iter().any(|range| range.contains(&c))) {
        return Err("must not contain characters that change the direction of text");
    }
    let shows = |c: char| !c.is_whitespace() && !INVISIBLE.iter().any(|range| range.contains(&c));
    if !text.chars().any(shows) {
        return Err("must not be empty");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_seen_and_disturbs_nothing_around_it() {
        for good in [
            "Ann",
            "Zo\u{eb}",
            "\u{645}\u{631}\u{6cc}\u{645}",
            "\u{1f469}\u{200d}\u{1f4bb}",
            "O\u{2019}Hara",
            "A\u{200f}b",
        ] {
            assert_eq!(display_name(good).as_deref(), Ok(good));
        }
        assert_eq!(display_name(" Ann\n").as_deref(), Ok("Ann"));
        for bad in [
            "",
            " ",
            "\u{200b}",
            "\u{3164}\u{2060}",
            "\u{a0}\u{feff}",
            "\u{ad}",
            "A\nb",
            "\u{7}",
            "nn\u{202e}A",
            "A\u{2066}b",
            "a\u{2028}b",
        ] {
            assert!(display_name(bad).is_err(), "{bad:?}");
        }
    }
}
