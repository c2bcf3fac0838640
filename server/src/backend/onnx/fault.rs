//! What a provider's failure is about: the GPU, the driver, the libraries' device code, or parts left to the CPU.

use super::{diagnose, gpu};
use crate::backend::{LoadError, ProviderFault};
use crate::config::Provider;

/// CUDA's numbers of errors that have a meaning here, as `cudaError_t` has them. The others are no fault of the host.
const CUDA_ERRORS: [(u32, ProviderFault); 14] = [
    // Initialisation failed; the stub library was loaded; the driver is older than the runtime, or lacks a call of it.
    (3, ProviderFault::Driver),
    (34, ProviderFault::Driver),
    (35, ProviderFault::Driver),
    (36, ProviderFault::Driver),
    (100, ProviderFault::NoDevice),
    (101, ProviderFault::NoDevice),
    // An invalid image; none for this device; PTX that the driver cannot compile, or that is newer than it.
    (200, ProviderFault::Code),
    (209, ProviderFault::Code),
    (218, ProviderFault::Code),
    (222, ProviderFault::Code),
    // The system's services are not up; driver and libraries do not match; no forward compatibility on this GPU.
    (802, ProviderFault::Driver),
    (803, ProviderFault::Driver),
    (804, ProviderFault::Driver),
    (999, ProviderFault::Driver),
];

/// How failures of NVIDIA's libraries begin in the runtime's messages.
const BEGINNINGS: [&str; 4] = ["CUDA failure ", "CUDNN failure ", "CUBLAS failure ", "CUFFT failure "];

/// What a message says about the provider, where it is about the provider.
pub(super) fn read(provider: Provider, message: &str) -> Option<LoadError> {
    let (fault, told) = find(message)?;
    // Told only where it can be the reason: looking starts the driver.
    let found = (!matches!(fault, ProviderFault::OnCpu | ProviderFault::Absent)).then(gpu::seen).flatten();
    Some(LoadError::Provider { provider: provider.name(), fault, message: told, found })
}

/// The fault that a message is about, and the part of the message that says so.
pub(super) fn find(message: &str) -> Option<(ProviderFault, String)> {
    if message.contains("fallback to CPU EP has been explicitly disabled") {
        return Some((ProviderFault::OnCpu, diagnose::tidy(message)));
    }
    if message.contains("execution provider is not enabled in this build") {
        return Some((ProviderFault::Absent, diagnose::tidy(message)));
    }
    let (beginning, start) = BEGINNINGS.iter().find_map(|beginning| Some((beginning, message.find(beginning)?)))?;
    // Before it stands a function's whole signature, and behind it where in the source.
    let told = &message[start..];
    let told = told.split_once(" ; GPU=").map_or(told, |(told, _)| told);
    let number = told[beginning.len()..].split(|letter: char| !letter.is_ascii_digit()).next()?.parse::<u32>().ok();
    let fault = if told.contains("ARCH_MISMATCH") {
        ProviderFault::Code
    } else if *beginning == BEGINNINGS[0] {
        let known = CUDA_ERRORS.iter().find(|(known, _)| Some(*known) == number);
        known.map_or(ProviderFault::Other, |(_, fault)| *fault)
    } else {
        ProviderFault::Other
    };
    Some((fault, diagnose::tidy(told)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_gpu_are_told_from_others() {
        let message = "/src/cuda_call.cc:154 onnxruntime::CudaCall(…) CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=h ; expr=x";
        let told = "CUDA failure 100: no CUDA-capable device is detected".to_owned();
        assert_eq!(find(message), Some((ProviderFault::NoDevice, told)));
        let fault = |message: &str| find(message).map(|(fault, _)| fault);
        assert_eq!(fault("x CUDA failure 35: CUDA driver version is insufficient"), Some(ProviderFault::Driver));
        assert_eq!(fault("CUDA failure 209: no kernel image is available for execution"), Some(ProviderFault::Code));
        assert_eq!(fault("CUDA failure 2: out of memory"), Some(ProviderFault::Other));
        assert_eq!(fault("CUBLAS failure 8: CUBLAS_STATUS_ARCH_MISMATCH"), Some(ProviderFault::Code));
        assert_eq!(fault("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED"), Some(ProviderFault::Other));
        assert_eq!(fault("CUDA failure "), Some(ProviderFault::Other));
        let message = "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled by the user.";
        assert_eq!(fault(message), Some(ProviderFault::OnCpu));
        assert_eq!(fault("CUDA execution provider is not enabled in this build."), Some(ProviderFault::Absent));
        assert_eq!(fault("Protobuf parsing failed."), None);
    }
}
