//! Any bytes parse to an object or to an error, and everything that the object offers can be used.
#![no_main]

use imgbuild::elf::{ElfObject, SymbolName, WantedVersion};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(object) = ElfObject::parse(data) else { return };
    let Some(dynamic) = object.dynamic else { return };
    let symbols = &dynamic.symbols;
    for import in symbols.imports().take(64) {
        symbols.provides(SymbolName::new(import.name), import.version);
    }
    for export in symbols.exports().take(64) {
        let name = SymbolName::new(export.name);
        symbols.provides(name, export.version.map(|name| WantedVersion { name, file: None, is_hidden: false }));
        assert!(symbols.versions_of(name).len() <= symbols.len());
    }
});
