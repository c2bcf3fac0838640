//! NumPy's files: the header of an `.npy` file, and its rows.
//!
//! The format is NumPy's NEP 1, versions 1 to 3. Arrays of Python objects are refused: they are pickles.

use std::io::Read;

use super::super::tensor::{Datatype, Tensor};

/// The largest header that is read.
const LARGEST_HEADER: usize = 1 << 20;

/// How the elements of an array lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Plain {
        datatype: Datatype,
        swapped: bool,
    },
    /// Byte strings of fixed length, padded with zeros.
    Bytes {
        width: usize,
    },
    /// Text in UTF-32 of fixed length, padded with zeros.
    Unicode {
        characters: usize,
        swapped: bool,
    },
}

/// What an `.npy` file's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    element: Element,
    fortran: bool,
    /// The array's dimensions.
    pub shape: Vec<u64>,
}

impl Header {
    /// Reads the header and leaves the reader at the first element.
    pub fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(|_| "is too short for a NumPy file")?;
        if &start[..6] != b"\x93NUMPY" {
            return Err("is no NumPy file: it does not start with the format's six bytes".to_owned());
        }
        let mut read = |width: usize| -> Result<usize, String> {
            let mut bytes = [0; 4];
            reader.read_exact(&mut bytes[..width]).map_err(|_| "ends in its header")?;
            Ok(u32::from_le_bytes(bytes) as usize)
        };
        let length = match start[6] {
            1 => read(2)?,
            2 | 3 => read(4)?,
            version => return Err(format!("has format version {version}, expected 1, 2 or 3")),
        };
        if length > LARGEST_HEADER {
            return Err(format!("has a header of {length} bytes, expected at most {LARGEST_HEADER}"));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text).map_err(|_| "ends in its header")?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Parses the header's text, a Python dictionary of three keys.
    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            let quoted = [format!("'{key}'"), format!("\"{key}\"")];
            let at = quoted.iter().find_map(|quoted| text.find(quoted.as_str()).map(|at| at + quoted.len()));
            let rest = text[at.ok_or_else(|| format!("has a header without `{key}`"))?..].trim_start();
            rest.strip_prefix(':').map(str::trim_start).ok_or_else(|| format!("has a header without a value of `{key}`"))
        };
        let descr = value("descr")?;
        let quote = descr.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
        let descr = quote
            .and_then(|quote| descr[1..].split(quote).next())
            .ok_or("holds records, expected an array of numbers or strings")?;
        let fortran = match value("fortran_order")? {
            text if text.starts_with("False") => false,
            text if text.starts_with("True") => true,
            _ => return Err("has a header whose `fortran_order` is neither True nor False".to_owned()),
        };
        let shape = value("shape")?;
        let inside = shape.strip_prefix('(').and_then(|shape| shape.split_once(')')).map(|(inside, _)| inside);
        let shape = inside
            .ok_or("has a header whose `shape` is no tuple")?
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.trim_end_matches('L').parse().map_err(|_| format!("has a dimension `{part}`, expected a number")))
            .collect::<Result<Vec<u64>, String>>()?;
        Ok(Self { element: Element::parse(descr)?, fortran, shape })
    }

    /// Bytes of a number of elements; `None` where they are more than 64 bits count.
    fn bytes(&self, elements: u64) -> Option<u64> {
        elements.checked_mul(match self.element {
            Element::Plain { datatype, .. } => datatype.width()? as u64,
            Element::Bytes { width } => width as u64,
            Element::Unicode { characters, .. } => characters as u64 * 4,
        })
    }

    /// Reads the next tensor of a shape: the whole array, or rows of it.
    ///
    /// Memory grows with what is there, not with what the header says.
    pub fn read_tensor(&self, reader: &mut impl Read, name: &str, shape: Vec<u64>) -> Result<Tensor, String> {
        let elements = shape.iter().try_fold(1_u64, |product, dimension| product.checked_mul(*dimension));
        let expected = elements.and_then(|elements| self.bytes(elements)).ok_or("has a shape that is too large")?;
        let mut data = Vec::new();
        let found = reader.take(expected).read_to_end(&mut data).map_err(|error| error.to_string())? as u64;
        if found < expected {
            return Err(format!("is cut short: {expected} bytes of elements were expected, and {found} are left"));
        }
        if self.fortran && shape.len() > 1 {
            let width = usize::try_from(self.bytes(1).unwrap_or(1)).unwrap_or(1);
            data = row_major(&data, &shape, width);
        }
        match self.element {
            Element::Plain { datatype, swapped } => {
                if swapped && let Some(width) = datatype.width() {
                    data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
                }
                Tensor::new(name, datatype, shape, data)
            }
            Element::Bytes { width } => {
                let texts: Vec<&[u8]> = if width == 0 {
                    vec![&[]; usize::try_from(elements.unwrap_or(0)).unwrap_or(0)]
                } else {
                    data.chunks_exact(width)
                        .map(|text| &text[..text.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)])
                        .collect()
                };
                Ok(Tensor::of_texts(name, shape, &texts))
            }
            Element::Unicode { characters, swapped } => {
                let text = |bytes: &[u8]| -> String {
                    let point = |bytes: &[u8]| {
                        let bytes = bytes.try_into().unwrap_or_default();
                        char::from_u32(if swapped { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
                    };
                    let text: String =
                        bytes.chunks_exact(4).map(|bytes| point(bytes).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
                    text.trim_end_matches('\0').to_owned()
                };
                let texts: Vec<String> = if characters == 0 {
                    vec![String::new(); usize::try_from(elements.unwrap_or(0)).unwrap_or(0)]
                } else {
                    data.chunks_exact(characters * 4).map(text).collect()
                };
                Ok(Tensor::of_texts(name, shape, &texts))
            }
        }
    }

    /// True where rows of the first dimension lie one after the other.
    pub fn has_rows(&self) -> bool {
        !self.shape.is_empty() && (!self.fortran || self.shape.len() == 1)
    }
}

impl Element {
    fn parse(descr: &str) -> Result<Self, String> {
        let wrong = || format!("has elements of type `{descr}`, expected numbers, booleans or strings");
        let mut characters = descr.chars();
        let order = characters.next().ok_or_else(wrong)?;
        let kind = characters.next().ok_or_else(wrong)?;
        let width: usize = characters.as_str().parse().map_err(|_| wrong())?;
        if kind == 'O' {
            return Err("holds Python objects, which are not read: they can run code".to_owned());
        }
        let swapped = match order {
            '<' | '|' | '=' => false,
            '>' => true,
            _ => return Err(wrong()),
        };
        let datatype = match (kind, width) {
            ('b', 1) => Datatype::Bool,
            ('u', 1) => Datatype::Uint8,
            ('u', 2) => Datatype::Uint16,
            ('u', 4) => Datatype::Uint32,
            ('u', 8) => Datatype::Uint64,
            ('i', 1) => Datatype::Int8,
            ('i', 2) => Datatype::Int16,
            ('i', 4) => Datatype::Int32,
            ('i', 8) => Datatype::Int64,
            ('f', 2) => Datatype::Fp16,
            ('f', 4) => Datatype::Fp32,
            ('f', 8) => Datatype::Fp64,
            // NumPy has no name for it; the package that adds it writes it as two raw bytes.
            ('V', 2) => Datatype::Bf16,
            ('S', _) => return Ok(Self::Bytes { width }),
            ('U', _) => return Ok(Self::Unicode { characters: width, swapped }),
            _ => return Err(wrong()),
        };
        Ok(Self::Plain { datatype, swapped })
    }
}

/// Elements in column-major order, put into row-major order.
fn row_major(data: &[u8], shape: &[u64], width: usize) -> Vec<u8> {
    let shape: Vec<usize> = shape.iter().map(|dimension| usize::try_from(*dimension).unwrap_or(usize::MAX)).collect();
    let mut ordered = Vec::with_capacity(data.len());
    let mut index = vec![0_usize; shape.len()];
    for _ in 0..data.len() / width.max(1) {
        let mut offset = 0;
        for (position, dimension) in index.iter().zip(&shape).rev() {
            offset = offset * dimension + position;
        }
        ordered.extend_from_slice(&data[offset * width..(offset + 1) * width]);
        for (position, dimension) in index.iter_mut().zip(&shape).rev() {
            *position += 1;
            if *position < *dimension {
                break;
            }
            *position = 0;
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).expect("a short header").to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Tensor, String> {
        let mut reader = bytes;
        let header = Header::read(&mut reader)?;
        header.read_tensor(&mut reader, "x", header.shape.clone())
    }

    #[test]
    fn order_and_byte_order_do_not_matter() {
        let rows = file("{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }", &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        let columns = file("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6]);
        assert_eq!(read(&rows), read(&columns));
        assert_eq!(read(&rows).expect("an array").floats(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn strings_lose_their_padding() {
        let bytes = file("{'descr': '|S3', 'fortran_order': False, 'shape': (2,), }", b"ab\0abc");
        assert_eq!(read(&bytes).expect("an array").texts().expect("texts"), [&b"ab"[..], b"abc"]);
        let unicode: Vec<u8> = ['ü', '\0'].iter().flat_map(|c| u32::from(*c).to_le_bytes()).collect();
        let bytes = file("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }", &unicode);
        assert_eq!(read(&bytes).expect("an array").texts().expect("texts"), ["ü".as_bytes()]);
    }

    #[test]
    fn what_is_no_array_is_refused_in_words() {
        let cases = [
            (b"PK".to_vec(), "too short"),
            (b"PK\x03\x04PK\x03\x04".to_vec(), "no NumPy file"),
            (file("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[]), "expected numbers"),
            (file("{'descr': '|O8', 'fortran_order': False, 'shape': (1,), }", &[]), "Python objects"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 7]), "cut short"),
            (file("{'descr': '<f4', 'shape': (2,), }", &[0; 8]), "fortran_order"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}", &[]), "too large"),
            (file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", &[0; 8]), "records"),
        ];
        for (bytes, expected) in cases {
            let error = read(&bytes).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
