//! Drops what only linkers and debuggers read: full symbol tables and debug sections.

use object::elf;

use super::draft::Draft;
use super::report::StripReport;

/// Starts of the names of debug sections.
const DEBUG: [&[u8]; 6] = [b".debug", b".zdebug", b".gdb_index", b".stab", b".gnu_debug", b".gnu.lto"];

/// Drops them from a draft.
pub(super) fn strip(draft: &mut Draft<'_>) -> StripReport {
    let names = u32::from(draft.library.header.names_section);
    let strings: Vec<u32> =
        draft.rows.iter().filter(|row| row.section.kind == elf::SHT_SYMTAB.0).map(|row| row.section.link).collect();
    let linked: Vec<u32> =
        draft.rows.iter().filter(|row| row.section.kind != elf::SHT_SYMTAB.0).map(|row| row.section.link).collect();
    let mut report = StripReport::default();
    for (index, row) in draft.rows.iter_mut().enumerate() {
        let index = index as u32;
        let is_table = row.section.kind == elf::SHT_SYMTAB.0 || row.section.kind == elf::SHT_SYMTAB_SHNDX.0;
        let is_its_strings = strings.contains(&index) && !linked.contains(&index) && index != names;
        let is_debug = DEBUG.iter().any(|start| row.name.starts_with(start));
        if !row.section.is_allocated() && !row.is_dropped && (is_table || is_its_strings || is_debug) {
            row.is_dropped = true;
            report.sections.push(String::from_utf8_lossy(&row.name).into_owned());
            report.bytes += if row.section.has_bytes() { row.section.size } else { 0 };
        }
    }
    report
}
