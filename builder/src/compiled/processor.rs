//! The processor that a model is compiled for.

use super::CompileError;
use crate::template::{CompilerTemplate, Processor};

/// The name that stands for the highest level that this machine is.
const NATIVE: &str = "native";

/// Finds the processor that was asked for, or the stack's own choice.
///
/// # Errors
/// [`CompileError::Processor`] where there is none of that name.
pub fn choose(compiler: &CompilerTemplate, stack: &str, asked: Option<&str>) -> Result<Processor, CompileError> {
    let name = asked.unwrap_or(&compiler.default_processor);
    let found = match name {
        NATIVE => compiler.processors.iter().rev().find(|processor| processor.features.iter().all(|feature| has(feature))),
        name => compiler.processor(name),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<String> = compiler.processors.iter().map(|processor| format!("`{}`", processor.name)).collect();
        let expected = format!("{} or `{NATIVE}`, the highest of them that this machine is", known.join(", "));
        CompileError::Processor { stack: stack.to_owned(), found: name.to_owned(), expected }
    })
}

/// Whether this machine has a feature, by the name that compilers give it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Data;

    #[test]
    fn processors_are_found_by_name() {
        let stack = Data::built_in().template("tf-xla-aot").expect("it is there").value;
        let compiler = stack.compiler.expect("it compiles");
        let name = |asked| choose(&compiler, "s", asked).map(|processor| processor.name);
        assert_eq!(name(None).expect("the default"), "x86-64-v3");
        assert_eq!(name(Some("x86-64-v4")).expect("it is listed"), "x86-64-v4");
        let error = name(Some("pentium")).expect_err("it is not listed").to_string();
        assert!(error.contains("`pentium`, expected `x86-64-v2`, `x86-64-v3`, `x86-64-v4` or `native`"), "{error}");
        #[cfg(target_arch = "x86_64")]
        assert!(name(Some("native")).expect("a level").starts_with("x86-64-v"));
    }
}
