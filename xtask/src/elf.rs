//! Just enough of ELF to see which functions an eBPF object calls.

/// R_BPF_64_32: the relocation of a call.
const CALL: u32 = 10;
/// SHT_REL: relocations without addends.
const RELOCATIONS: u32 = 9;

/// Names of the symbols that calls in the object are resolved to. None when it is no 64-bit
/// little-endian ELF file, or a broken one.
pub(crate) fn called(object: &[u8]) -> Option<Vec<String>> {
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let sections = sections(object)?;
    let mut names = Vec::new();
    for section in sections.iter().filter(|section| section.kind == RELOCATIONS) {
        let symbols = sections.get(section.link)?;
        let strings = sections.get(symbols.link)?;
        for at in (section.offset..section.offset + section.size).step_by(16) {
            let info = word(object, at + 8)?;
            if info as u32 == CALL {
                let symbol = symbols.offset + (info >> 32) as usize * 24;
                names.push(string(object, strings.offset + half(object, symbol)? as usize)?);
            }
        }
    }
    Some(names)
}

struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

fn sections(object: &[u8]) -> Option<Vec<Section>> {
    let table = usize::try_from(word(object, 0x28)?).ok()?;
    let count = u16::from_le_bytes(object.get(0x3c..0x3e)?.try_into().ok()?);
    (0..usize::from(count))
        .map(|index| {
            let at = table + index * 64;
            Some(Section {
                kind: half(object, at + 4)?,
                offset: usize::try_from(word(object, at + 0x18)?).ok()?,
                size: usize::try_from(word(object, at + 0x20)?).ok()?,
                link: half(object, at + 0x28)? as usize,
            })
        })
        .collect()
}

fn word(object: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(object.get(at..at + 8)?.try_into().ok()?))
}

fn half(object: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(object.get(at..at + 4)?.try_into().ok()?))
}

fn string(object: &[u8], at: usize) -> Option<String> {
    let bytes = object.get(at..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}
