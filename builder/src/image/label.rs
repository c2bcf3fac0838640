//! Labels by which an image for GPUs says what it wants of a host.

/// GPU architectures that the image has code for: `sm_75,sm_86`, or `all` that its libraries came with.
pub const SM: &str = "io.imgbuild.gpu.sm";
/// The lowest major version of the driver: `580`.
pub const DRIVER: &str = "io.imgbuild.gpu.driver";
/// The version of CUDA that the libraries were built for: `13.0`.
pub const CUDA: &str = "io.imgbuild.gpu.cuda";
/// What runs the model: `cuda`, `tensorrt` or `nv-tensorrt-rtx`.
pub const PROVIDER: &str = "io.imgbuild.gpu.provider";
