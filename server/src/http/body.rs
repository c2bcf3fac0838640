//! Request bodies: read within limits, laid so that binary tensors are aligned, decompressed.

use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::StatusCode;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::Refusal;

/// What is discarded at most of a body that is not wanted, so that its sender gets to read the answer.
const DISCARDED_BYTES: usize = 256 << 20;
/// And for how long.
const DISCARDED_TIME: Duration = Duration::from_secs(10);
/// And how long it may pause: a sender that stalls does not wait for the answer either.
const DISCARDED_PAUSE: Duration = Duration::from_millis(250);
/// Where the binary data of a request start: a multiple of this.
const ALIGNMENT: usize = 64;
/// Unit of the budget of all bodies.
const UNIT: usize = 1024;

/// Bytes that all bodies together may take.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS))))
    }

    pub(super) fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        u32::try_from(bytes.div_ceil(UNIT))
            .ok()
            .and_then(|units| Arc::clone(&self.0).try_acquire_many_owned(units).ok())
            .ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many bytes of requests are held, try again later"))
    }
}

/// A body, and its share of the budget.
pub struct Held {
    /// The bytes as they were sent.
    pub bytes: Bytes,
    /// Given back when the request is done with.
    pub share: OwnedSemaphorePermit,
}

/// Reads a body of at most `largest` bytes until `deadline`.
///
/// The byte at `binary_start`, where the binary data start, comes to lie at an aligned address.
///
/// # Errors
/// 413 over the limit, 503 over the budget, 408 past the deadline, 400 for one that ends early.
pub async fn read<B>(
    body: &mut B,
    largest: usize,
    budget: &Budget,
    binary_start: usize,
    deadline: Instant,
) -> Result<Held, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let too_large = |found: &str| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has {found} bytes, expected at most {largest} (`max_body_bytes`)"),
        )
    };
    let hint = body.size_hint();
    if hint.lower() > largest as u64 {
        return Err(too_large(&hint.lower().to_string()));
    }
    // The length that the head announces; a chunked body announces none.
    let announced = hint.exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut share = budget.take(announced.max(UNIT))?;
    let mut buffer: Vec<u8> = Vec::with_capacity(announced + ALIGNMENT);
    let padding = buffer.as_ptr().wrapping_add(binary_start).align_offset(ALIGNMENT) % ALIGNMENT;
    buffer.resize(padding, 0);
    loop {
        let frame = timeout_at(deadline, poll_fn(|context| Pin::new(&mut *body).poll_frame(context)))
            .await
            .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("failed to read the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = buffer.len() - padding + data.remaining();
        if length > largest {
            return Err(too_large("more"));
        }
        if length > share.num_permits() * UNIT {
            // Taken in large steps, as the buffer itself grows.
            share.merge(budget.take((length - share.num_permits() * UNIT).max(64 * UNIT))?);
        }
        buffer.extend_from_slice(&data);
    }
    Ok(Held { bytes: Bytes::from(buffer).slice(padding..), share })
}

/// Reads what is left of a body that is not wanted: an answer that is sent while bytes still come in may be lost.
pub async fn discard<B: Body + Unpin>(body: &mut B) {
    if body.is_end_stream() {
        return;
    }
    let reading = async {
        let mut read = 0;
        while read < DISCARDED_BYTES {
            match timeout(DISCARDED_PAUSE, poll_fn(|context| Pin::new(&mut *body).poll_frame(context))).await {
                Ok(Some(Ok(frame))) => read += frame.data_ref().map_or(0, Buf::remaining),
                Ok(Some(Err(_)) | None) | Err(_) => break,
            }
        }
    };
    // Either way the answer is sent.
    let _ = timeout(DISCARDED_TIME, reading).await;
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// It is not.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Deflate,
}

impl Encoding {
    /// Reads `Content-Encoding`.
    ///
    /// # Errors
    /// 415 for any other.
    pub fn parse(header: Option<&[u8]>) -> Result<Self, Refusal> {
        let Some(header) = header else { return Ok(Self::Identity) };
        match header.trim_ascii() {
            b"" | b"identity" => Ok(Self::Identity),
            b"gzip" | b"x-gzip" => Ok(Self::Gzip),
            b"deflate" => Ok(Self::Deflate),
            other => Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "Content-Encoding `{}` is not supported, expected gzip, deflate or identity",
                    String::from_utf8_lossy(&other[..other.len().min(32)])
                ),
            )),
        }
    }

    /// Decompresses a body to at most `largest` bytes.
    ///
    /// # Errors
    /// 413 over the limit, 400 for what is not so compressed.
    pub fn decode(self, bytes: Bytes, largest: usize) -> Result<Bytes, Refusal> {
        let mut out = Vec::new();
        let limit = largest as u64 + 1;
        let read = match self {
            Self::Identity => return Ok(bytes),
            Self::Gzip => flate2::read::MultiGzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut out),
            Self::Deflate => flate2::read::ZlibDecoder::new(&bytes[..]).take(limit).read_to_end(&mut out),
        };
        read.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("failed to decompress the body: {error}")))?;
        if out.len() > largest {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body has more than {largest} bytes when decompressed (`max_body_bytes`)"),
            ));
        }
        Ok(out.into())
    }
}
