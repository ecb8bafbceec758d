//! "Did you mean": the known word nearest to a mistyped one.

/// Longest word that is compared; longer ones have no suggestion.
const WORD_MAX: usize = 64;

/// The word of `known` nearest to `word`, when it is near enough to be what was meant: one typing error for
/// each three letters, at least one.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let allowed = (word.len() / 3).max(1);
    let near = known.iter().map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), *candidate));
    near.filter(|(errors, _)| *errors <= allowed).min().map(|(_, candidate)| candidate)
}

/// Letters put in, left out or changed, and neighbours swapped (optimal string alignment).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, x) in a.iter().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut left = i + 1;
        next.push(left);
        let mut last_y = None;
        for (j, (y, pair)) in b.iter().zip(row.windows(2)).enumerate() {
            let (diagonal, above) = match pair {
                [diagonal, above] => (*diagonal, *above),
                _ => continue,
            };
            left = (left + 1).min(above + 1).min(diagonal + usize::from(x != y));
            let swapped = last == Some(y) && last_y == Some(x);
            if swapped && let Some(two_back) = j.checked_sub(1).and_then(|j| before.get(j)) {
                left = left.min(two_back + 1);
            }
            next.push(left);
            last_y = Some(y);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(x);
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_typing_errors() {
        for (a, b, errors) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("lisen", "listen", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("plya", "play", 1),
            ("abcd", "badc", 2),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), errors, "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["listen", "chunk_size", "handshake_timeout"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("chunk-size", &known), Some("chunk_size"));
        assert_eq!(nearest("port", &known), None);
        assert_eq!(nearest(&"l".repeat(WORD_MAX + 1), &known), None);
    }
}
