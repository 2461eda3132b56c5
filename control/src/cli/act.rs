//! Commands that change something, or check a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use weir_shm::{Pins, Role};

use super::{Arguments, Exit};
use crate::api::{self, Request, Response};
use crate::confine::Confined;
use crate::guard;
use crate::own;
use crate::site;
use crate::watch::Watcher;

/// Makes a request of the control process and says what became of it.
pub fn request(arguments: &Arguments, request: &Request) -> Exit {
    match api::call(&arguments.socket, request) {
        Ok(Response::Ok { epoch, message }) => {
            if arguments.json {
                println!("{}", json!({ "epoch": epoch, "message": message }));
            } else {
                println!("{message} (epoch {epoch})");
            }
            Exit::Ok
        }
        Ok(Response::Health { .. } | Response::History { .. }) => {
            eprintln!("weir: weir-control answered something else: is it of this version?");
            Exit::Failed
        }
        Ok(Response::Error { message }) => {
            eprintln!("weir: {message}");
            Exit::Failed
        }
        Err(error) => {
            eprintln!("weir: {error:#}");
            Exit::NotRunning
        }
    }
}

/// Becomes a command that runs by an uplink.
pub fn run_by(arguments: &Arguments, request: &Request, command: &[OsString]) -> Exit {
    let refused = match api::call(&arguments.socket, request) {
        Ok(Response::Ok { .. }) => None,
        Ok(Response::Error { message }) => Some(message),
        Ok(_) => Some("weir-control answered something else: is it of this version?".into()),
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(message) = refused {
        eprintln!("weir: {message}");
        return Exit::NotRun;
    }
    let Some((program, rest)) = command.split_first() else { return Exit::NotRun };
    let error = Command::new(program).args(rest).exec();
    eprintln!("weir: cannot run {}: {error}", program.display());
    match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::NotExecutable,
    }
}

/// Checks a file by itself, then against this machine.
pub fn check(file: &Path, json: bool) -> Exit {
    let checked = site::load(file).and_then(|site| {
        let name = file.display().to_string();
        let failed = |error: anyhow::Error| {
            vec![site::Problem::whole(&name, format!("{error:#}"), "run as root on the gateway")]
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.into()))?;
        let kernel = runtime.block_on(async { Watcher::new()?.read().await }).map_err(failed)?;
        match site::against_kernel(&site, &kernel, &name) {
            problems if problems.is_empty() => {
                let here = site::warnings_here(&site, &kernel);
                Ok(site::Site { warnings: [site.warnings.clone(), here].concat(), ..site })
            }
            problems => Err(problems),
        }
    });
    let (problems, warnings) = match &checked {
        Ok(site) => (Vec::new(), site.warnings.clone()),
        Err(problems) => (problems.iter().map(ToString::to_string).collect(), Vec::new()),
    };
    if json {
        println!(
            "{}",
            json!({ "valid": checked.is_ok(), "errors": problems, "warnings": warnings })
        );
    } else {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        match &checked {
            Ok(site) => println!(
                "{}: valid, {} uplinks, {} policies, {} rules",
                file.display(),
                site.uplinks.len(),
                site.policies.len(),
                site.rules.len()
            ),
            Err(problems) => eprintln!("{}: {} errors", file.display(), problems.len()),
        }
    }
    if checked.is_ok() { Exit::Ok } else { Exit::Invalid }
}

/// Rules and routes of a control process that had no time to remove them, or left them to commands.
/// Those of another gateway in this network namespace stay.
fn remove_routes(pins: &Pins) -> anyhow::Result<()> {
    let _claim = match own::Claim::take(pins.directory()) {
        Ok(claim) => claim,
        Err(other) => {
            eprintln!("weir: rules and routes stay: {other}");
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { own::remove(&mut Watcher::new()?, &BTreeSet::new()).await })
}

/// What keeps the kernel from forwarding on its own: the last to go.
fn remove_guard(pins: &Pins) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(guard::remove(pins.directory()))
}

/// Removes everything weir keeps in the kernel.
pub fn detach(pins: &Pins, force: bool, json: bool) -> Exit {
    // Held to the end: a process that starts meanwhile would work on what is being removed.
    let mut claims = Vec::new();
    let roles = Role::ALL.iter().filter(|_| pins.directory().exists());
    for role in roles.filter(|role| !(force && **role == Role::Dataplane)) {
        match pins.claim(*role) {
            Ok(claim) => claims.push(claim),
            Err(error) => {
                let more = if *role == Role::Dataplane { "; or use --force" } else { "" };
                eprintln!("weir: {error}{more}");
                return Exit::Failed;
            }
        }
    }
    if let Err(error) = remove_routes(pins) {
        eprintln!("weir: weir's rules and routes are still there: {error:#}");
        return Exit::Failed;
    }
    Confined::find().sweep();
    let removed = pins.remove();
    if let Err(error) = remove_guard(pins) {
        eprintln!("weir: weir's nftables table is still there: {error:#}");
        return Exit::Failed;
    }
    match removed {
        Ok(removed) if json => {
            println!("{}", json!({ "directory": pins.directory(), "removed": removed }));
            Exit::Ok
        }
        Ok(removed) if removed.is_empty() => {
            println!("nothing to remove in {}", pins.directory().display());
            Exit::Ok
        }
        Ok(removed) => {
            println!("removed {} from {}", removed.join(" "), pins.directory().display());
            if pins.directory().exists() {
                println!("{} stays: not all in it is weir's", pins.directory().display());
            }
            Exit::Ok
        }
        Err(error) => {
            eprintln!("weir: {error}");
            Exit::Failed
        }
    }
}
