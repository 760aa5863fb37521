//! What the programs are besides their time: how long they take to load, how many instructions they are, and what their
//! maps take before anything is in them.

use std::fmt::Write as _;

use diolkos_abi::conntrack::FLOWS;
use serde_json::{Value, json};

use crate::dataplane::Dataplane;
use crate::report::spread;
use crate::rows::node;

const MIB: f64 = 1024.0 * 1024.0;

pub struct Sizes {
    /// ms of CPU time for loading every program.
    loads: Vec<f64>,
    programs: Vec<Program>,
    /// Name and bytes.
    maps: Vec<(String, u64)>,
}

struct Program {
    name: String,
    /// Instructions as the kernel holds them.
    translated: u32,
    /// Instructions that its verifier went through.
    verified: u32,
}

impl Sizes {
    pub fn new() -> Self {
        let dataplane = load();
        let programs = dataplane.ebpf.programs().map(|(name, program)| {
            let info = program.info().expect("the kernel knows its programs");
            Program {
                name: name.to_owned(),
                translated: info.size_translated().unwrap_or_default() / 8,
                verified: info.verified_instruction_count().unwrap_or_default(),
            }
        });
        let mut programs: Vec<Program> = programs.collect();
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        Self { loads: Vec::new(), programs, maps: dataplane.memory() }
    }

    /// Loads everything once more.
    pub fn add_load(&mut self) {
        self.loads.push(load().loading.as_secs_f64() * 1e3);
    }

    pub fn json(&self) -> Value {
        let (min, median, max) = spread(self.loads.clone());
        let programs: Vec<Value> = self
            .programs
            .iter()
            .map(|program| json!({"name": program.name, "instructions": program.translated, "verified": program.verified}))
            .collect();
        let maps: Vec<Value> = self.maps.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        let load = [min, median, max].map(|ms| (ms * 10.0).round() / 10.0);
        json!({ "load_ms": load, "programs": programs, "maps": maps })
    }

    pub fn markdown(&self) -> String {
        let (min, median, max) = spread(self.loads.clone());
        let mut text = format!(
            "\nAll programs are loaded in {min:.0} / {median:.0} / {max:.0} ms of CPU time (min / median / max).\n\n\
             | program | instructions | verified |\n|---|---|---|\n"
        );
        let (mut translated, mut verified) = (0, 0);
        for program in &self.programs {
            writeln!(text, "| {} | {} | {} |", program.name, program.translated, program.verified).unwrap();
            (translated, verified) = (translated + program.translated, verified + program.verified);
        }
        writeln!(text, "| all | {translated} | {verified} |\n\n| map | MiB when empty |\n|---|---|").unwrap();
        for (name, bytes) in &self.maps {
            writeln!(text, "| {name} | {:.2} |", *bytes as f64 / MIB).unwrap();
        }
        let all: u64 = self.maps.iter().map(|(_, bytes)| bytes).sum();
        writeln!(text, "| all | {:.2} |", all as f64 / MIB).unwrap();
        text
    }
}

/// As an agent loads it by default.
fn load() -> Dataplane {
    Dataplane::load(&node(), FLOWS)
}
