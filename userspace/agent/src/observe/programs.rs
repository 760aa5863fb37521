//! The programs that run, and the constants they were loaded with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::{ProgramInfo, loaded_programs};
use diolkos_abi::config::{Config, features};

use super::pins::{chain, unreadable};
use super::{ObserveError, Pins};
use crate::dataplane::kernel;

/// A program in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The name of the link's pin.
    pub pin: String,
    pub program: String,
    pub program_id: u32,
    /// When it took its place.
    pub loaded: Option<SystemTime>,
}

/// Names of the bits of [`Config::features`].
pub const FEATURES: [(u32, &str); 5] = [
    (features::SET_RETVAL, "set_retval"),
    (features::REDIRECT_PEER, "redirect_peer"),
    (features::DIRECT_ROUTING, "direct_routing"),
    (features::MASQUERADE, "masquerade"),
    (features::DRY_RUN, "dry_run"),
];

/// All programs of the node, sorted by pin.
pub fn attached(pins: &Pins) -> Result<Vec<Attached>, ObserveError> {
    let links = pins.links()?.into_iter().map(|pin| Ok((program_id(pins, &pin)?, pin)));
    let links: Vec<(u32, String)> = links.collect::<Result<_, ObserveError>>()?;
    let ids: BTreeSet<u32> = links.iter().map(|(id, _)| *id).collect();
    let known = programs(&ids)?;
    let of = |(program_id, pin): (u32, String)| {
        let info = known.get(&program_id);
        Attached {
            pin,
            program: info.and_then(ProgramInfo::name_as_str).unwrap_or("?").to_owned(),
            program_id,
            loaded: info.and_then(ProgramInfo::loaded_at),
        }
    };
    Ok(links.into_iter().map(of).collect())
}

/// The constants of the programs that run; nothing when none does.
pub fn config(pins: &Pins) -> Result<Option<Config>, ObserveError> {
    let mut running = None;
    for pin in pins.links()? {
        // What hung on a device that is gone is no more.
        running = Some((program_id(pins, &pin)?, pin)).filter(|(id, _)| *id != 0);
        if running.is_some() {
            break;
        }
    }
    let Some((id, pin)) = running else { return Ok(None) };
    let failed = |error: &dyn std::error::Error| ObserveError::Kernel {
        operation: format!("look at program {id} of {pin}"),
        reason: chain(error),
    };
    let Some(program) = programs(&[id].into())?.remove(&id) else { return Ok(None) };
    let maps = program.map_ids().map_err(|error| failed(&error))?.unwrap_or_default();
    for map in maps {
        let info = MapInfo::from_id(map).map_err(|error| failed(&error))?;
        if !info.name_as_str().is_some_and(|name| name.contains("rodata"))
            || info.value_size() as usize != size_of::<Config>()
        {
            continue;
        }
        let data = MapData::from_id(map).map_err(|error| failed(&error))?;
        let constants: Array<MapData, Config> = Array::try_from(Map::Array(data)).map_err(|error| failed(&error))?;
        return constants.get(&0, 0).map(Some).map_err(|error| unreadable("CONFIG", &error));
    }
    Err(ObserveError::Kernel {
        operation: format!("read the constants of program {id} of {pin}"),
        reason: "they are of another release of diolkos: use its own command".into(),
    })
}

/// The program of a pin: of a link, or the program itself where a filter of the device holds it.
fn program_id(pins: &Pins, pin: &str) -> Result<u32, ObserveError> {
    let path = pins.link(pin);
    kernel::pinned_program(&path).map_err(|source| ObserveError::Path { operation: "open", path, source })
}

fn programs(ids: &BTreeSet<u32>) -> Result<BTreeMap<u32, ProgramInfo>, ObserveError> {
    let failed = |error| ObserveError::Kernel { operation: "list the loaded programs".into(), reason: chain(&error) };
    let mut found = BTreeMap::new();
    for program in loaded_programs() {
        // Others' programs come and go meanwhile.
        let Ok(program) = program else { continue };
        if ids.contains(&program.id()) {
            found.insert(program.id(), program);
        }
    }
    match found.is_empty() && !ids.is_empty() {
        true => Err(failed(std::io::Error::other("none of the attached ones is there: run this as root"))),
        false => Ok(found),
    }
}
