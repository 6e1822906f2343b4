//! Names of containers: the rule that Docker has for them, and names made up where none was given.

/// Whether a container may be called this: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, as Docker requires.
pub fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= 2
        && bytes[0].is_ascii_alphanumeric()
        && bytes[1..]
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clear", "crisp", "deft", "eager", "fair", "fleet", "fond",
    "frank", "glad", "hardy", "jolly", "keen", "kind", "lively", "lucid", "merry", "neat",
    "nimble", "plain", "proud", "quick", "quiet", "ready", "sharp", "sober", "steady", "swift",
    "warm",
];

const NOUNS: [&str; 32] = [
    "alder", "avocet", "badger", "beech", "birch", "cedar", "crane", "curlew", "elm", "falcon",
    "finch", "fir", "hazel", "heron", "ibex", "jackdaw", "larch", "lynx", "maple", "marten", "oak",
    "otter", "petrel", "pine", "plover", "raven", "rowan", "sparrow", "stoat", "tern", "willow",
    "wren",
];

/// A name from two random bytes; `attempt` > 0 adds a number, for when it is taken.
pub fn made_up(random: [u8; 2], attempt: u32) -> String {
    let word = |list: &[&'static str; 32], b: u8| list[usize::from(b) % list.len()];
    let name = format!(
        "{}_{}",
        word(&ADJECTIVES, random[0]),
        word(&NOUNS, random[1])
    );
    match attempt {
        0 => name,
        n => format!("{name}{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_of_names() {
        for good in ["ab", "web-1", "A.b_c", "0x"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", ".ab", "a b", "a/b", "ä1", "a\n"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn made_up_names_are_valid() {
        for b in 0..=255 {
            assert!(is_valid(&made_up([b, 255 - b], u32::from(b))));
        }
    }
}
