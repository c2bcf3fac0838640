/// What runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The processor.
    Cpu,
    /// A GPU, by CUDA.
    Cuda,
}

impl Provider {
    pub(super) const ALL: [(&'static str, Self); 2] = [("cpu", Self::Cpu), ("cuda", Self::Cuda)];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, provider)| *provider == self).map_or("cpu", |(name, _)| name)
    }
}
