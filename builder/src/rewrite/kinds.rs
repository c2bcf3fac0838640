//! The relocations of each machine, by what they mean.

use object::elf;

use crate::elf::Machine;

/// Numbers of relocation kinds, and the page size for which files of the machine are laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    /// The address of a symbol plus the addend.
    pub(super) absolute: u32,
    /// The load address plus the addend.
    pub(super) relative: u32,
    /// The address of a symbol.
    pub(super) global_data: u32,
    /// The address of a function.
    pub(super) jump_slot: u32,
    /// The result of a resolver function.
    pub(super) indirect: u32,
    /// A copy of another file's variable.
    pub(super) copy: u32,
    /// The number of the module that has a thread-local variable.
    pub(super) tls_module: u32,
    /// The place of a thread-local variable in its module.
    pub(super) tls_offset: u32,
    /// The place of a thread-local variable from the thread pointer.
    pub(super) tls_static: u32,
    /// Whether the loader adds the addend of `global_data` and `jump_slot`.
    pub(super) slots_have_addends: bool,
    /// Largest page size in bytes.
    pub(super) page: u64,
}

impl Kinds {
    /// The kinds of a machine, where they are known.
    pub(super) fn of(machine: Machine) -> Option<Self> {
        match machine {
            Machine::X86_64 => Some(Self {
                absolute: elf::R_X86_64_64.0,
                relative: elf::R_X86_64_RELATIVE.0,
                global_data: elf::R_X86_64_GLOB_DAT.0,
                jump_slot: elf::R_X86_64_JUMP_SLOT.0,
                indirect: elf::R_X86_64_IRELATIVE.0,
                copy: elf::R_X86_64_COPY.0,
                tls_module: elf::R_X86_64_DTPMOD64.0,
                tls_offset: elf::R_X86_64_DTPOFF64.0,
                tls_static: elf::R_X86_64_TPOFF64.0,
                slots_have_addends: false,
                page: 0x1000,
            }),
            Machine::Aarch64 => Some(Self {
                absolute: elf::R_AARCH64_ABS64.0,
                relative: elf::R_AARCH64_RELATIVE.0,
                global_data: elf::R_AARCH64_GLOB_DAT.0,
                jump_slot: elf::R_AARCH64_JUMP_SLOT.0,
                indirect: elf::R_AARCH64_IRELATIVE.0,
                copy: elf::R_AARCH64_COPY.0,
                tls_module: elf::R_AARCH64_TLS_DTPMOD.0,
                tls_offset: elf::R_AARCH64_TLS_DTPREL.0,
                tls_static: elf::R_AARCH64_TLS_TPREL.0,
                slots_have_addends: true,
                page: 0x1_0000,
            }),
            Machine::Other(_) => None,
        }
    }
}
