//! The packed form of relative relocations (`DT_RELR`): an address, then bitmaps over the 63 words after it.

/// Words that one bitmap covers.
const BITS: u64 = 63;

/// Packs addresses, which are sorted, distinct and multiples of eight.
pub(super) fn pack(addresses: &[u64]) -> Vec<u64> {
    let mut packed = Vec::new();
    let mut rest = addresses.iter().copied().peekable();
    while let Some(address) = rest.next() {
        packed.push(address);
        let mut base = address + 8;
        loop {
            let mut bitmap = 0;
            while let Some(next) = rest.next_if(|&next| next - base < BITS * 8) {
                bitmap |= 1 << ((next - base) / 8);
            }
            if bitmap == 0 {
                break;
            }
            packed.push(bitmap << 1 | 1);
            base = base.wrapping_add(BITS * 8);
        }
    }
    packed
}

/// Gives the addresses back, `None` where there are more than `most` or a bitmap comes before any address.
pub(super) fn unpack(packed: impl IntoIterator<Item = u64>, most: usize) -> Option<Vec<u64>> {
    let mut addresses = Vec::new();
    let mut base: Option<u64> = None;
    for entry in packed {
        if entry & 1 == 0 {
            addresses.push(entry);
            base = Some(entry.wrapping_add(8));
        } else {
            let at = base?;
            addresses.extend((0..BITS).filter(|bit| entry >> (bit + 1) & 1 == 1).map(|bit| at.wrapping_add(8 * bit)));
            base = Some(at.wrapping_add(BITS * 8));
        }
        if addresses.len() > most {
            return None;
        }
    }
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packs_runs_into_bitmaps() {
        assert!(pack(&[]).is_empty());
        assert_eq!(pack(&[16, 24, 40, 16 + 8 * 64]), [16, 0b1011, 0b11]);
        assert_eq!(pack(&[0, 8 * 1000]), [0, 8000]);
        assert_eq!(unpack([3], 100), None);
    }

    proptest! {
        #[test]
        fn unpacks_what_it_packed(steps in prop::collection::vec(1..200u64, 0..300)) {
            let addresses: Vec<u64> = steps.iter().scan(0, |at, step| { *at += 8 * step; Some(*at) }).collect();
            prop_assert_eq!(unpack(pack(&addresses), 300), Some(addresses));
        }
    }
}
