//! Tar headers: the same bytes for the same entry, ustar wherever ustar can say it.

use tar::{EntryType, Header};

use super::LayerError;
use crate::tree::{Entry, ImagePath, Kind};

/// Bytes of a tar block.
pub(crate) const BLOCK: u64 = 512;

/// Two blocks of zeros, which end the archive.
pub(crate) const END: [u8; 1024] = [0; 1024];

/// Highest number of an octal field of eleven digits: the largest size and time that ustar can hold.
const OCTAL_11: u64 = 0o777_7777_7777;

/// Zero bytes between the end of a file of `size` bytes and the next header.
pub(crate) fn padding(size: u64) -> usize {
    (BLOCK - size % BLOCK) as usize % BLOCK as usize
}

/// Appends the header of an entry: one block, with PAX records before it where path, link target or size do not fit.
pub(crate) fn append(out: &mut Vec<u8>, path: &ImagePath, entry: &Entry, epoch: u64) -> Result<(), LayerError> {
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    header.set_uid(0);
    header.set_gid(0);
    header.set_device_major(0).expect("ustar headers have the field");
    header.set_device_minor(0).expect("ustar headers have the field");
    if epoch > OCTAL_11 {
        return Err(LayerError::Epoch { found: epoch, latest: OCTAL_11 });
    }
    header.set_mtime(epoch);
    let mut name = path.as_str().to_owned();
    match &entry.kind {
        Kind::Directory => {
            name.push('/');
            header.set_entry_type(EntryType::Directory);
            header.set_mode(entry.mode & 0o7777);
            header.set_size(0);
        }
        Kind::File { size, .. } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(entry.mode & 0o7777);
            if *size > OCTAL_11 {
                header.set_size(0);
                records.add("size", size.to_string().as_bytes());
            } else {
                header.set_size(*size);
            }
        }
        Kind::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            let ustar = header.as_ustar_mut().expect("made as ustar");
            if !fill(&mut ustar.linkname, target.as_bytes()) {
                records.add("linkpath", target.as_bytes());
            }
        }
    }
    let ustar = header.as_ustar_mut().expect("made as ustar");
    match split(name.as_bytes()) {
        Some((prefix, rest)) => {
            fill(&mut ustar.prefix, prefix);
            fill(&mut ustar.name, rest);
        }
        None => {
            fill(&mut ustar.name, name.as_bytes());
            records.add("path", name.as_bytes());
        }
    }
    header.set_cksum();
    records.append_to(out);
    out.extend_from_slice(header.as_bytes());
    Ok(())
}

/// Divides a name into ustar's prefix and name fields; `None` where it fits neither whole nor divided.
/// The name field takes as much as it can.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    // The slash that divides is in neither field; a directory's last slash cannot divide.
    let first = name.len() - 101;
    let slash = first + name[first..name.len() - 1].iter().position(|byte| *byte == b'/')?;
    (1..=155).contains(&slash).then(|| (&name[..slash], &name[slash + 1..]))
}

/// Puts a text into a field as far as it fits, and tells whether all of it did.
fn fill(field: &mut [u8], text: &[u8]) -> bool {
    let count = text.len().min(field.len());
    field[..count].copy_from_slice(&text[..count]);
    count == text.len()
}

/// PAX records, sorted by keyword.
#[derive(Default)]
struct Records(Vec<(&'static str, Vec<u8>)>);

impl Records {
    fn add(&mut self, keyword: &'static str, value: &[u8]) {
        self.0.push((keyword, value.to_vec()));
    }

    fn append_to(mut self, out: &mut Vec<u8>) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort();
        let mut body = Vec::new();
        for (keyword, value) in &self.0 {
            // The record's length counts its own digits.
            let rest = keyword.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {keyword}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let mut header = Header::new_ustar();
        fill(&mut header.as_ustar_mut().expect("made as ustar").name, b"././@PaxHeader");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(0).expect("ustar headers have the field");
        header.set_device_minor(0).expect("ustar headers have the field");
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&body);
        out.resize(out.len() + padding(body.len() as u64), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_divided_at_the_first_slash_that_lets_both_parts_fit() {
        let path = |lengths: &[usize]| lengths.iter().map(|count| "x".repeat(*count)).collect::<Vec<_>>().join("/");
        let parts = |name: &str| split(name.as_bytes()).map(|(prefix, rest)| (prefix.len(), rest.len()));
        assert_eq!(parts(&path(&[100])), Some((0, 100)));
        assert_eq!(parts(&path(&[101])), None);
        assert_eq!(parts(&path(&[1, 99])), Some((1, 99)));
        assert_eq!(parts(&path(&[50, 49, 1])), Some((50, 51)));
        assert_eq!(parts(&path(&[155, 100])), Some((155, 100)));
        assert_eq!(parts(&path(&[156, 100])), None);
        assert_eq!(parts(&path(&[155, 101])), None);
        assert_eq!(parts(&path(&[100, 100, 54])), None);
        // A directory: its last slash stays in the name.
        assert_eq!(parts(&format!("{}/", path(&[155, 99]))), Some((155, 100)));
        assert_eq!(parts(&format!("{}/", path(&[155, 100]))), None);
        assert_eq!(parts(&format!("{}/", path(&[100]))), None);
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in [1, 4, 5, 86, 87, 88, 89, 90, 980, 985, 990, 995] {
            let mut out = Vec::new();
            let mut records = Records::default();
            records.add("path", &vec![b'x'; length]);
            records.append_to(&mut out);
            let body = &out[512..];
            let end = body.iter().position(|byte| *byte == b'\n').expect("ends with a line break");
            let digits = body.iter().position(|byte| *byte == b' ').expect("a space follows the length");
            let said: usize = std::str::from_utf8(&body[..digits]).expect("digits").parse().expect("a number");
            assert_eq!(said, end + 1, "a value of {length} bytes");
            assert_eq!(out.len() % 512, 0);
        }
    }
}
