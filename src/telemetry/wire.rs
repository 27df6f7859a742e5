//! The types of `bpf/wire.h` as the skeleton generated them, under their Rust names, and their
//! passage to and from the bytes that the map system calls take.
#![allow(unsafe_code)]

#[allow(
    missing_docs,
    missing_debug_implementations,
    rust_2018_idioms,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::use_self
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/weir.skel.rs"));
}

pub(super) use skeleton::WeirSkelBuilder;
pub use skeleton::types::{
    __sk_buff as SkBuff, attach_mode as AttachMode, attachment as RawAttachment, conn as Conn,
    counter_key as CounterKey, counter_kind as CounterKind, db_operation as DbOperation,
    db_outcome as DbOutcome, direction as Direction, family as Family, head_part as HeadPart,
    held as Held, histogram as Histogram, histogram_key as HistogramKey,
    histogram_kind as HistogramKind, http_error as HttpError, http_method as HttpMethod,
    http_status as HttpStatus, http_version as HttpVersion, l7_protocol as L7Protocol,
    limit as RawLimit, limit_key as LimitKey, merge_entry as MergeEntry, merge_kind as MergeKind,
    merge_run as MergeRun, net_counter as NetCounter, pod_traffic as PodTraffic, record as Record,
    record_kind as RecordKind, role as Role, share as Share, share_table as ShareTable,
    stat as Stat, tcp_result as TcpResult, tls_version as TlsVersion, transport as Transport,
};

/// A type that is nothing but its bytes: every bit pattern is a value, no padding is left implicit.
///
/// # Safety
/// Implementors are `repr(C)`, `Copy`, made of integers and arrays of them, with explicit padding.
pub unsafe trait Wire: Copy + Default {}

macro_rules! wire {
    ($($name:ty = $size:expr),* $(,)?) => {$(
        // SAFETY: generated `repr(C)` from a header that pads by named fields; the size is checked.
        unsafe impl Wire for $name {}
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

/// What the other layout of tests/layouts has more at the end of a value.
const SPARE: usize = if cfg!(feature = "other-layout") { 8 } else { 0 };

wire! {
    u32 = 4,
    u64 = 8,
    CounterKey = 12,
    HistogramKey = 8,
    Histogram = 936,
    PodTraffic = 520 + SPARE,
    RawAttachment = 768 + SPARE,
    LimitKey = 8,
    RawLimit = 24,
    Record = 64,
    MergeEntry = 32,
    MergeRun = 3232,
}

/// The bytes of `value`, as a map key or value.
pub fn bytes_of<T: Wire>(value: &T) -> &[u8] {
    // SAFETY: `T: Wire` has no padding, so all `size_of::<T>()` bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A value from the start of `bytes`; `None` where they are too few.
pub fn from_bytes<T: Wire>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, `T: Wire` takes any bits, and the read needs no alignment.
    (bytes.len() >= size_of::<T>())
        .then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// A value from another layout's bytes: what is missing at its end is 0, what is more is passed over.
pub fn from_other<T: Wire>(bytes: &[u8]) -> Option<T> {
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(size_of::<T>()), 0);
    from_bytes(&whole)
}

/// A NUL-terminated text of a fixed field; invalid UTF-8 is replaced.
pub fn text<const N: usize>(field: &[std::ffi::c_char; N]) -> String {
    let bytes: Vec<u8> = field
        .iter()
        .take_while(|&&c| c != 0)
        .map(|&c| u8::from_ne_bytes(c.to_ne_bytes()))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `text` cut (at a character) to what the field holds with its NUL.
pub fn field<const N: usize>(text: &str) -> [std::ffi::c_char; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.as_bytes()[..end].iter()) {
        *to = std::ffi::c_char::from_ne_bytes([*from]);
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_to_bytes_and_back() {
        let key = CounterKey { pod: 7, kind: 1, role: 2, a: 3, b: 4, c: 0x1234, zero: 0 };
        let back: CounterKey = from_bytes(bytes_of(&key)).unwrap();
        assert_eq!((back.pod, back.kind, back.role, back.c), (7, 1, 2, 0x1234));
        assert!(from_bytes::<CounterKey>(&bytes_of(&key)[1..]).is_none());
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(text(&field::<4>("aé€")), "aé");
        assert_eq!(text(&field::<8>("")), "");
    }
}
