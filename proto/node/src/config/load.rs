//! Loading: file, then environment, then types, then the checks of the whole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::error::{ConfigErrors, Fault, Place, Step};
use super::tree::{Node, TEXT_MAX};
use super::typed::Typed;
use super::{Config, check, env};

/// The annotated default configuration, which is what `weir config` prints.
pub const DEFAULT_YAML: &str = include_str!("../../../../conf/weir.yaml");

/// Most faults that are reported together.
const FAULTS_MAX: usize = 20;

/// Loads the configuration of this host: the file at `path`, or [`DEFAULT_YAML`] without one, then the variables
/// `WEIR_*` of `env` (`std::env::vars()`; others are passed over).
///
/// Reads the files that `cluster.tls` names, to say early that one is missing.
pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
    let name = path.map_or_else(|| "built-in configuration".to_owned(), |path| path.display().to_string());
    let config = match path {
        Some(path) => read(path).and_then(|text| from_text(&text, env)),
        None => from_text(DEFAULT_YAML, env),
    };
    config.map_err(|faults| ConfigErrors::new(name, faults))
}

fn read(path: &Path) -> Result<String, Vec<Fault>> {
    let refuse = |message: String| vec![Fault::at(Place::Nowhere, &[], message)];
    let file = File::open(path).map_err(|e| refuse(format!("cannot be opened: {e}")))?;
    let mut text = Vec::new();
    let limit = TEXT_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut text).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    String::from_utf8(text).map_err(|e| {
        let before = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|b| **b == b'\n').count() as u64;
        vec![Fault::at(Place::Line(line), &[], "not UTF-8 text")]
    })
}

pub(super) fn from_text(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Config, Vec<Fault>> {
    let mut tree = Node::parse(text, None).map_err(|fault| vec![fault])?;
    let mut faults = env::overlay(&mut tree, env);
    let config = typed(&mut tree, &mut faults);
    match config {
        Some(config) if faults.is_empty() => {
            let faults = check::check(&config, &tree);
            if faults.is_empty() { Ok(config) } else { Err(faults) }
        }
        _ => Err(faults),
    }
}

/// Types the tree. A key that is wrong is reported, taken out, and the rest is tried again, so that one run
/// reports all of them.
fn typed(tree: &mut Node, faults: &mut Vec<Fault>) -> Option<Config> {
    while faults.len() < FAULTS_MAX {
        let fault = match Config::deserialize(Typed(tree)) {
            Ok(config) => return Some(config),
            Err(fault) => fault,
        };
        let keys = fault.steps().map_while(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        let removed = tree.remove(&keys.collect::<Vec<_>>());
        faults.push(fault);
        if !removed {
            return None;
        }
    }
    None
}
