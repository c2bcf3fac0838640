//! What this CPU can do, as far as it decides which form of a model the runtime can use.

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
