//! Texts from elsewhere: from peers, from files that others write. They are shown in logs, terminals and pages.

/// Stands for a character that is not shown.
const HIDDEN: char = '?';

/// The text in these bytes, at most so many of them, fit to be shown anywhere: on one line, without characters that
/// steer a terminal, hide or turn what stands beside them, or mean something in HTML.
pub fn shown(bytes: &[u8], bytes_max: usize) -> String {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    let plain = |c: char| if steers(c) { HIDDEN } else { c };
    let mut text: String = String::from_utf8_lossy(bytes).chars().map(plain).collect();
    // The replacement for a byte that is no text is longer than that byte.
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// Controls, separators of lines, what has no width, and what changes the direction of writing (Unicode's Cc, Zl, Zp
/// and Cf, as far as Cf is known by now), and the beginnings of HTML's tags and entities.
const fn steers(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '<' | '>' | '&' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}'
        | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_is_hidden_and_everything_else_is_as_it_was() {
        for (text, expected) in [
            ("remoted's socket: „schön“ 日本 \"x\" 1/2", "remoted's socket: „schön“ 日本 \"x\" 1/2"),
            ("a\x1b[2Jb\r\nc\td", "a?[2Jb??c?d"),
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{2028}f", "a?b?c?d?e?f"),
            ("<script>&amp;", "?script??amp;"),
        ] {
            assert_eq!(shown(text.as_bytes(), 100), expected);
        }
        assert_eq!(shown(b"a\xffb", 100), "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_bytes_are_shown_on_one_line_and_within_the_bound(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            bytes_max in 0..300_usize,
        ) {
            let text = shown(&bytes, bytes_max);
            prop_assert!(text.len() <= bytes_max && !text.chars().any(steers), "{:?}", text);
            prop_assert!(!text.contains(char::is_control));
        }
    }
}
