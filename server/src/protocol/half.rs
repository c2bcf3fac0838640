//! Half precision, which Rust has no stable type for.

/// Widens an IEEE 754 binary16 exactly.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match (exponent, fraction) {
        (0, 0) => 0,
        (0, _) => {
            // Subnormal: the value is fraction / 2^24, which a binary32 holds exactly.
            #[expect(clippy::cast_precision_loss, reason = "the fraction has ten bits")]
            let value = fraction as f32 / 16_777_216.0;
            value.to_bits()
        }
        (0x1f, _) => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Rounds to the nearest IEEE 754 binary16, ties to even; what is too large becomes infinite.
pub fn f64_to_f16(value: f64) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 48) & 0x8000) as u16;
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let fraction = bits & 0x000f_ffff_ffff_ffff;
    if exponent == 1024 {
        // Infinity, or NaN made quiet.
        return sign | 0x7c00 | if fraction == 0 { 0 } else { 0x200 };
    }
    if exponent > 15 {
        return sign | 0x7c00;
    }
    if exponent < -25 {
        return sign;
    }
    // The significand with its leading one, and how far it is shifted to become the half's fraction.
    let significand = fraction | 1 << 52;
    let (base, shift) = if exponent >= -14 {
        // The leading one is added on to the exponent field, so one less is put there.
        (((exponent + 14) as u64) << 10, 42)
    } else {
        (0, (42 + (-14 - exponent)) as u32)
    };
    let kept = significand >> shift;
    let rest = significand & ((1_u64 << shift) - 1);
    let half = 1_u64 << (shift - 1);
    let up = u64::from(rest > half || (rest == half && kept & 1 == 1));
    // A carry out of the fraction raises the exponent, up to infinity, as it should.
    sign | (base + kept + up) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_round_trips() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f32(bits);
            if value.is_nan() {
                assert!(f16_to_f32(f64_to_f16(f64::from(value))).is_nan());
            } else {
                assert_eq!(f64_to_f16(f64::from(value)), bits, "{value}");
            }
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(f16_to_f32(0x3c00), 1.0);
        assert_eq!(f16_to_f32(0x7bff), 65504.0);
        assert_eq!(f16_to_f32(0x0001), 2.0_f32.powi(-24));
        assert_eq!(f16_to_f32(0x0400), 2.0_f32.powi(-14));
        assert_eq!(f64_to_f16(65519.99), 0x7bff);
        assert_eq!(f64_to_f16(65520.0), 0x7c00);
        assert_eq!(f64_to_f16(-1e300), 0xfc00);
        assert_eq!(f64_to_f16(2.0_f64.powi(-25)), 0, "a tie goes to even");
        assert_eq!(f64_to_f16(2.0_f64.powi(-25) * 1.0001), 1);
        assert_eq!(f64_to_f16(0.1), 0x2e66);
    }

    #[test]
    fn neighbours_round_to_the_nearest() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f64::from(f16_to_f32(bits)), f64::from(f16_to_f32(bits + 1)));
            let middle = (low + high) / 2.0;
            assert_eq!(f64_to_f16(middle), bits + (bits & 1), "ties to even");
            assert_eq!(f64_to_f16(middle.next_down()), bits);
            assert_eq!(f64_to_f16(middle.next_up()), bits + 1);
        }
    }
}
