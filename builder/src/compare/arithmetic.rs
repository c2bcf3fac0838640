//! Small arithmetic that comparing and limits share.

/// A library's path or file name without the version behind `.so`.
#[must_use]
pub fn stem(path: &str) -> &str {
    path.find(".so.").map_or(path, |at| &path[..at + 3])
}

/// The last part of a path.
#[must_use]
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// By how many percent something grew; `None` from nothing.
#[must_use]
pub fn growth(base: f64, head: f64) -> Option<f64> {
    (base > 0.0).then(|| 100.0 * (head - base) / base)
}

/// A size as a number that is divided and drawn; exact up to 2⁵³ bytes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a share or a length on a page needs no more digits")]
pub fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Orders names as people do: `1.9` before `1.10`.
#[must_use]
pub fn natural_order(one: &str, other: &str) -> std::cmp::Ordering {
    let (one, other) = (runs(one), runs(other));
    let number = |text: &str| text.parse::<u128>().ok();
    for (a, b) in one.iter().zip(&other) {
        let order = match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order.is_ne() {
            return order;
        }
    }
    one.len().cmp(&other.len()).then_with(|| one.cmp(&other))
}

/// A name cut into runs of digits and runs of anything else.
fn runs(name: &str) -> Vec<&str> {
    name.as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .scan(0, |start, chunk| {
            let run = &name[*start..*start + chunk.len()];
            *start += chunk.len();
            Some(run)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_people_do() {
        let mut names = ["1.10", "b", "1.9", "é2", "1.9-rc1", "é10", ""];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["", "1.9", "1.9-rc1", "1.10", "b", "é2", "é10"]);
        assert_eq!(stem("/lib/libz.so.1.2.13"), "/lib/libz.so");
        assert_eq!(stem("/etc/passwd"), "/etc/passwd");
    }
}
