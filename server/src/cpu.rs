//! What this CPU can do, as far as it decides which form of a model the runtime can use.

/// What this CPU lacks of some features, asked of the CPU itself. A feature of an unknown name counts as lacking.
pub fn missing(features: &[String]) -> Vec<String> {
    features.iter().filter(|feature| !has(feature)).cloned().collect()
}

/// Whether this CPU has a feature, by the name that compilers give it.
#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    macro_rules! detect {
        ($($name:tt)*) => {
            match feature {
                $($name => is_x86_feature_detected!($name),)*
                _ => false,
            }
        };
    }
    detect!(
        "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "movbe" "lzcnt" "bmi1" "bmi2" "f16c" "fma" "avx" "avx2"
        "xsave" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl"
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn has(_feature: &str) -> bool {
    false
}

/// The instruction sets that this CPU has of those that decide how the runtime lays out weights, in a fixed order,
/// behind the architecture's name: `x86_64 avx avx2 fma`.
pub fn features() -> String {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, found) in [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ] {
        if found {
            features.push(name);
        }
    }
    features.join(" ")
}
