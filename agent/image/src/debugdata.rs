//! `.gnu_debugdata`: a symbol table inside a stripped image.
//!
//! Distributions such as Fedora strip `.symtab` and put a reduced copy into the image: an ELF file
//! with the function symbols that `.dynsym` does not have, compressed with xz ("MiniDebugInfo" in
//! GDB's manual). The compressed bytes are streamed through a decoder with a bounded dictionary,
//! and the output is bounded too: 100 bytes of xz can stand for gigabytes.

use crate::elf::{Elf, Purpose};
use crate::limits::DEBUGDATA_BYTES;
use crate::source::check_range;
use crate::{ImageError, ReadAt};

const SECTION: &str = ".gnu_debugdata";

/// Decompresses the file inside the image, if present. `progress` gets the compressed bytes done
/// and their total.
pub(crate) fn read(
    elf: &Elf<dyn ReadAt + '_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Elf<Vec<u8>>>, ImageError> {
    let Some(section) = elf.section_named(SECTION) else { return Ok(None) };
    check_range(&elf.source, SECTION, section.offset, section.size)?;
    let bytes = decompress(&elf.source, section.offset, section.size, DEBUGDATA_BYTES, progress)?;
    Elf::open(bytes, Purpose::Symbols).map(Some)
}

/// Decompresses `size` bytes of xz from `offset` to at most `limit` bytes.
#[cfg(feature = "debugdata")]
fn decompress(
    source: &dyn ReadAt,
    offset: u64,
    size: u64,
    limit: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<u8>, ImageError> {
    use xz4rust::{XzDecoder, XzNextBlockResult};

    use crate::limits::{DEBUGDATA_COMPRESSED_BYTES, XZ_DICTIONARY_BYTES};
    use crate::source::read_exact;

    const CHUNK: usize = 64 << 10;
    if size > DEBUGDATA_COMPRESSED_BYTES {
        return Err(ImageError::TooLarge { what: SECTION, size, limit: DEBUGDATA_COMPRESSED_BYTES });
    }
    let damaged = |reason: String| ImageError::Debugdata { reason };
    let mut decoder = XzDecoder::in_heap_with_alloc_dict_size(0, XZ_DICTIONARY_BYTES);
    let mut input = vec![0; CHUNK];
    let mut chunk = vec![0; CHUNK];
    let mut output = Vec::new();
    let mut done = 0;
    while done < size {
        let length = (size - done).min(CHUNK as u64) as usize;
        read_exact(source, SECTION, offset.saturating_add(done), &mut input[..length])?;
        let mut used = 0;
        loop {
            let result = decoder
                .decode(&input[used..length], &mut chunk)
                .map_err(|error| damaged(error.to_string()))?;
            let produced = chunk.get(..result.output_produced()).unwrap_or_default();
            if output.len() + produced.len() > limit {
                return Err(ImageError::TooLarge {
                    what: "decompressed .gnu_debugdata",
                    size: (output.len() + produced.len()) as u64,
                    limit: limit as u64,
                });
            }
            output.extend_from_slice(produced);
            used += result.input_consumed();
            if let XzNextBlockResult::EndOfStream(..) = result {
                return Ok(output);
            }
            if !result.made_progress() {
                break;
            }
        }
        if used == 0 {
            return Err(damaged("the decoder makes no progress".to_owned()));
        }
        done += used as u64;
        progress(done, size);
    }
    Err(damaged("the stream ends too early".to_owned()))
}

/// A build without a decoder refuses the section.
#[cfg(not(feature = "debugdata"))]
fn decompress(
    _: &dyn ReadAt,
    _: u64,
    _: u64,
    _: usize,
    _: &mut dyn FnMut(u64, u64),
) -> Result<Vec<u8>, ImageError> {
    Err(ImageError::Debugdata { reason: "this build of edgelat has no decoder for it".to_owned() })
}

#[cfg(test)]
#[cfg(feature = "debugdata")]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Compresses `bytes` by `xz` with these options.
    fn xz(bytes: &[u8], options: &[&str]) -> Vec<u8> {
        let mut child = Command::new("xz")
            .args(["--compress", "--stdout"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("xz must be installed");
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn unxz(bytes: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
        decompress(&bytes, 0, bytes.len() as u64, limit, &mut |_, _| ())
    }

    fn text() -> Vec<u8> {
        let mut random = crate::testing::Random::new(5);
        (0..300_000).map(|index| if index % 7 == 0 { random.next() as u8 } else { b'a' }).collect()
    }

    #[test]
    fn what_xz_compressed_comes_back_whatever_the_options() {
        for options in
            [&["-0"][..], &["-6"], &["-9e"], &["--check=crc32"], &["--check=none"], &["--block-size=50000"]]
        {
            assert!(unxz(&xz(&text(), options), 1 << 20).unwrap() == text(), "{options:?}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = xz(&vec![0; 20 << 20], &["-6"]);
        assert!(bomb.len() < 10 << 10);
        let start = std::time::Instant::now();
        let error = unxz(&bomb, 1 << 20).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit, .. } if limit == 1 << 20), "{error}");
        assert!(start.elapsed().as_secs() < 30);
    }

    #[test]
    fn a_stream_that_ends_too_early_or_is_damaged_is_an_error() {
        let whole = xz(&text(), &["-0"]);
        for end in [0, 1, 6, 12, 13, whole.len() / 2, whole.len() - 13, whole.len() - 1] {
            assert!(matches!(unxz(&whole[..end], 1 << 20), Err(ImageError::Debugdata { .. })), "{end}");
        }
        let mut random = crate::testing::Random::new(11);
        for _ in 0..200 {
            let mut damaged = whole.clone();
            let at = random.below(damaged.len());
            damaged[at] ^= 1 << random.below(8);
            // A checksum catches errors that the decoder does not.
            assert!(unxz(&damaged, 1 << 20).is_err(), "bit flipped in byte {at}");
        }
    }

    #[test]
    fn a_dictionary_above_the_cap_is_refused_before_it_is_allocated() {
        let bytes = xz(b"some bytes", &["--lzma2=dict=256MiB"]);
        assert!(matches!(unxz(&bytes, 1 << 20), Err(ImageError::Debugdata { .. })));
    }
}
