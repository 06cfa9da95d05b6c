//! The unique public name of an account.

/// Names that could be taken for the server, for those who run it, or for everybody. Compared by how they look.
const RESERVED: [&str; 46] = [
    "abuse",
    "account",
    "admin",
    "administrator",
    "all",
    "anonymous",
    "api",
    "billing",
    "bot",
    "channel",
    "contact",
    "deleted",
    "everyone",
    "help",
    "helpdesk",
    "here",
    "hostmaster",
    "info",
    "mail",
    "me",
    "mod",
    "moderator",
    "news",
    "nobody",
    "noreply",
    "null",
    "official",
    "operator",
    "owner",
    "postmaster",
    "privacy",
    "rialto",
    "root",
    "security",
    "server",
    "service",
    "staff",
    "superuser",
    "support",
    "sysadmin",
    "system",
    "team",
    "undefined",
    "unknown",
    "webmaster",
    "www",
];

/// The handle as it is stored, or what is wrong with it.
pub fn parse(text: &str) -> Result<String, &'static str> {
    if !(3..=30).contains(&text.len()) {
        return Err("must have 3 to 30 characters");
    }
    // ASCII only, before case is folded: `K` (U+212A) would become `k` otherwise.
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') {
        return Err("may consist of a to z, 0 to 9, `_` and `.` only");
    }
    let ends = [text.bytes().next(), text.bytes().next_back()];
    if !ends.into_iter().flatten().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("must begin and end with a letter or digit");
    }
    let handle = text.to_ascii_lowercase();
    if RESERVED.iter().any(|reserved| look(reserved) == look(&handle)) {
        return Err("is reserved");
    }
    Ok(handle)
}

/// How a handle looks: without `_` and `.`, and with one letter for those that are hard to tell apart.
fn look(handle: &str) -> String {
    let letter = |c: char| match c {
        '0' => 'o',
        '1' | 'i' => 'l',
        '3' => 'e',
        '4' => 'a',
        '5' => 's',
        '7' => 't',
        '8' => 'b',
        c => c,
    };
    let letters: String = handle.chars().filter(|c| !matches!(c, '_' | '.')).map(letter).collect();
    letters.replace("rn", "m").replace("vv", "w")
}

/// A handle that somebody looks for: folded, without the `@` that people write before it.
pub fn fold(text: &str) -> String {
    text.strip_prefix('@').unwrap_or(text).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_folded_and_what_is_none_is_refused() {
        assert_eq!(parse("Ann.B_3").as_deref(), Ok("ann.b_3"));
        assert_eq!(parse(&"a".repeat(30)).map(|handle| handle.len()), Ok(30));
        let long = "a".repeat(31);
        for wrong in ["", "ab", &long, "a b", "a-b", "änn", "an\u{212a}", "...", ".ann", "ann_", "a@b", "a\nb", "a/b"]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for reserved in [
            "admin",
            "Admin",
            "ad.min",
            "a_d_m_i_n",
            "rialto",
            "sup.port",
            "adm1n",
            "4dmin",
            "adrnin",
            "ADMlN",
            "r1alt0",
            "R1ALTO",
            "supp0rt",
            "5taff",
            "vvebmaster",
            "sy5tern",
        ] {
            assert_eq!(parse(reserved), Err("is reserved"), "{reserved}");
        }
        for free in ["administer", "admin1", "annie", "ann1e", "modern", "bob.7"] {
            assert!(parse(free).is_ok(), "{free}");
        }
        assert_eq!(fold("@Ann"), "ann");
    }
}
