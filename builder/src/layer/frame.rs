//! Frames: pieces of the tar stream that are compressed each on its own.

use std::io;
use std::ops::RangeInclusive;

use zstd::zstd_safe::CParameter;

use super::Compression;

/// Base-2 logarithm of zstd's window: a whole frame.
const WINDOW_LOG: u32 = 25;
/// Base-2 logarithm of the positions that are remembered, for levels whose own table is too small for that window and whose
/// method has no other: 48 MB.
const HASH_LOG: u32 = 23;
const WIDE_HASH_LEVELS: RangeInclusive<i32> = 9..=12;

/// Compresses one frame. `room` is space that calls share.
///
/// Every frame gets a fresh context, so that nothing of the frames that the same thread compressed before can get in: zstd
/// keeps tables and salts their hashes anew where a context is used again, and promises nothing about the bytes.
pub(crate) fn compress(compression: Compression, input: &[u8], room: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    room.clear();
    match compression {
        Compression::None => return Ok(input.to_vec()),
        Compression::Zstd { level } if !(1..=22).contains(&level) => return Err(no_level(level)),
        Compression::Zstd { level } => {
            room.reserve(zstd::zstd_safe::compress_bound(input.len()));
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            // The encoder makes both smaller where the input is.
            compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
            if WIDE_HASH_LEVELS.contains(&level) {
                compressor.set_parameter(CParameter::HashLog(HASH_LOG))?;
            }
            compressor.compress_to_buffer(input, room)?;
        }
        Compression::Gzip { level } => {
            let level = libdeflater::CompressionLvl::new(level).map_err(|_| no_level(level))?;
            let mut compressor = libdeflater::Compressor::new(level);
            room.resize(compressor.gzip_compress_bound(input.len()), 0);
            let count = compressor.gzip_compress(input, room).map_err(|error| io::Error::other(error.to_string()))?;
            room.truncate(count);
        }
    }
    Ok(room.to_vec())
}

fn no_level(level: i32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("there is no level {level}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_frame_does_not_depend_on_the_frames_before_it() {
        let text = |seed: u32| {
            let mut state = seed;
            (0..300_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"abcdefgh    "[(state >> 24) as usize % 12]
                })
                .collect::<Vec<u8>>()
        };
        let mut room = Vec::new();
        for compression in [
            Compression::Zstd { level: 9 },
            Compression::Zstd { level: 1 },
            Compression::Zstd { level: 19 },
            Compression::Gzip { level: 9 },
        ] {
            let first = compress(compression, &text(1), &mut Vec::new()).expect("memory");
            compress(compression, &text(2), &mut room).expect("memory");
            assert_eq!(compress(compression, &text(1), &mut room).expect("memory"), first, "{compression}");
            assert!(first.len() < 200_000, "{compression} made {} bytes", first.len());
        }
    }

    #[test]
    fn gzip_headers_hold_no_time_no_name_and_no_system() {
        let member = compress(Compression::Gzip { level: 6 }, b"some bytes", &mut Vec::new()).expect("memory");
        assert_eq!(member[..4], [0x1f, 0x8b, 8, 0]);
        assert_eq!(member[4..8], [0; 4]);
        assert_eq!(member[9], 255);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&member[..]).read_to_string(&mut back).expect("valid gzip");
        assert_eq!(back, "some bytes");
    }
}
