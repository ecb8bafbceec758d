//! Puts into the executable what the pages play HTTP-FLV and HLS with: mpegts.js and hls.js, as web/libraries/package-lock.json
//! names them, by npm.
//!
//! WEIR_WEB_LIBRARIES says otherwise: a directory that `npm ci` was run in, for machines without a network, or `off`.
//! Without them, all is built but these two players, and a warning says so.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const FOLDER: &str = "web/libraries";

/// Paths of the pages, and files of the packages.
const FILES: [(&str, &str); 2] =
    [("/lib/hls.js", "hls.js/dist/hls.min.mjs"), ("/lib/mpegts.js", "mpegts.js/dist/mpegts.js")];

/// Whose code is in them.
const LICENSES: (&str, [&str; 4]) = ("/lib/licenses.txt", ["hls.js", "mpegts.js", "es6-promise", "events"]);

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-env-changed=WEIR_WEB_LIBRARIES");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let packages = match env::var("WEIR_WEB_LIBRARIES") {
        Ok(off) if off == "off" => None,
        Ok(dir) => {
            println!("cargo::rerun-if-changed={dir}");
            Some(PathBuf::from(dir))
        }
        Err(_) => install(&out.join("npm")).map_err(|why| {
            println!("cargo::warning=the pages will not play HTTP-FLV and HLS: {why} (WEIR_WEB_LIBRARIES=off: no warning)");
            // A file that is never there: the next build tries again.
            println!("cargo::rerun-if-changed={FOLDER}/missing");
        }).ok(),
    };
    let mut table =
        String::from("/// Paths and files of others, with their licenses.\nconst LIBRARIES: &[(&str, &[u8])] = &[\n");
    if let Some(dir) = packages {
        let modules = dir.join("node_modules");
        for (path, file) in FILES {
            let text = fs::read_to_string(modules.join(file)).map_err(|error| format!("{file}: {error}"))?;
            // Their maps are not there.
            let code = text.rsplit_once("//# sourceMappingURL=").map_or(&*text, |(code, _)| code);
            add(&mut table, &out, path, code)?;
        }
        let (path, names) = LICENSES;
        let mut all = String::new();
        for name in names {
            let text =
                fs::read_to_string(modules.join(name).join("LICENSE")).map_err(|error| format!("{name}: {error}"))?;
            write!(all, "{name}\n\n{text}\n\n")?;
        }
        add(&mut table, &out, path, &all)?;
    }
    table.push_str("];\n");
    fs::write(out.join("libraries.rs"), table)?;
    Ok(())
}

fn add(table: &mut String, out: &Path, path: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let file = out.join(path.replace('/', "_"));
    fs::write(&file, text)?;
    writeln!(table, "    ({path:?}, include_bytes!({file:?})),")?;
    Ok(())
}

/// The packages in a directory of ours; their own scripts are not run.
fn install(dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(Path::new(FOLDER).join(name), dir.join(name))?;
    }
    let options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"];
    let done = Command::new("npm")
        .arg("ci")
        .args(options)
        .current_dir(dir)
        .output()
        .map_err(|error| format!("npm: {error}"))?;
    if done.status.success() {
        return Ok(dir.to_owned());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    let why = text.lines().find(|line| line.contains("error")).unwrap_or("it failed");
    Err(format!("npm ci: {why}").into())
}
