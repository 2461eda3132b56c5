//! Commands that change something, or check a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::json;
use weir_api::{DelegatedView, Query, Request, Response, Unanswered, untold};
use weir_kernel::confine::Confined;
use weir_kernel::watch::Watcher;
use weir_kernel::{bound, guard, own, sysctls, xdp};
use weir_publish::{beside, onto_links};
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::map::Access;
use weir_shm::{Error, Pins, Role};
use weir_site::{Site, UplinkConfig};
use weir_view::Kernel;

use super::elsewhere::{self, Elsewhere};
use super::{Arguments, Exit, filters, output};

/// Makes a request of the control process and says what became of it.
pub fn request(arguments: &Arguments, request: &Request) -> Exit {
    tell(arguments.json, weir_api::call(&arguments.socket, request))
}

/// As [`request`], of prefixes that a provider delegates. Where nobody answers it is kept for when
/// somebody does: who asks may be told of them once in hours.
pub fn prefix(arguments: &Arguments, request: &Request) -> Exit {
    match weir_api::call(&arguments.socket, request) {
        Err(error) if error.is::<Unanswered>() => match untold::keep(&arguments.socket, request) {
            Ok(()) => output::fail(
                arguments.json,
                Exit::NotRunning,
                "weir-control does not answer: it is told of this prefix as soon as it runs",
            ),
            Err(unkept) => output::failed(
                arguments.json,
                &error
                    .context(format!("weir-control is not told of this prefix later: {unkept:#}")),
            ),
        },
        answer => tell(arguments.json, answer),
    }
}

fn tell(json: bool, answer: anyhow::Result<Response>) -> Exit {
    match answer {
        Ok(Response::Ok { epoch, message }) => output::print(&match json {
            true => output::json("done", json!({ "epoch": epoch, "message": message })),
            false => format!("{message} (epoch {epoch})\n"),
        }),
        Ok(Response::Error { message }) => output::fail(json, Exit::Failed, &message),
        Ok(_) => output::fail(json, Exit::Failed, weir_api::ANOTHER_VERSION),
        Err(error) => output::failed(json, &error),
    }
}

/// Becomes a command that runs by an uplink.
pub fn run_by(arguments: &Arguments, request: &Request, command: &[OsString]) -> Exit {
    let refused = match weir_api::call(&arguments.socket, request) {
        Ok(Response::Ok { .. }) => None,
        Ok(Response::Error { message }) => Some(message),
        Ok(_) => Some(weir_api::ANOTHER_VERSION.into()),
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(message) = refused {
        output::warn(&message);
        return Exit::NotRun;
    }
    let Some((program, rest)) = command.split_first() else { return Exit::NotRun };
    let error = Command::new(program).args(rest).exec();
    output::warn(&format!("cannot run {}: {error}", program.display()));
    match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::NotExecutable,
    }
}

/// Says which uplinks' providers have delegated nothing, as far as weir-control was told; if it
/// does not answer, that is not known.
fn undelegated(arguments: &Arguments, site: &Site) -> Vec<String> {
    let known = match weir_api::ask(&arguments.socket, &Query::Delegated) {
        Ok(Response::Delegated { uplinks }) => uplinks,
        _ => return Vec::new(),
    };
    let awaits = |name: &String| {
        let of = site.uplinks.iter().find(|uplink| uplink.name == *name);
        of.is_some_and(UplinkConfig::is_delegated)
    };
    let bare = known.iter().filter(|view| view.prefixes.is_empty() && awaits(&view.uplink));
    let warning = |DelegatedView { uplink, .. }: &DelegatedView| {
        format!(
            "uplink {uplink} (IPv6): no prefix is delegated yet: the path is down until a hook of \
             the DHCPv6 client says `weir prefix {uplink} set`, see deploy/hooks"
        )
    };
    bare.map(warning).collect()
}

/// Published ports that sockets of the gateway have, if the kernel says which these are.
fn taken(runtime: &tokio::runtime::Runtime, site: &Site) -> Vec<String> {
    if site.publish.is_empty() {
        return Vec::new();
    }
    let Ok(bound) = runtime.block_on(bound::now()) else { return Vec::new() };
    site.taken(|port| bound::has(&bound, port))
}

/// What the kernel has that a site is judged by.
pub async fn view(site: &Site) -> anyhow::Result<Kernel> {
    let mut watcher = Watcher::new()?;
    watcher.follow_ipv6(site.has_ipv6());
    watcher.read().await
}

/// Checks a file by itself, then against this machine and what is published here.
pub fn check(arguments: &Arguments, pins: &Pins, file: &Path) -> Exit {
    let json = arguments.json;
    let checked = weir_site::load(file).and_then(|site| {
        let name = file.display().to_string();
        let failed = |error: anyhow::Error| {
            vec![weir_site::Problem::whole(
                &name,
                format!("{error:#}"),
                "run as root on the gateway",
            )]
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.into()))?;
        let kernel = runtime.block_on(view(&site)).map_err(failed)?;
        let published = published(pins).map_err(|error| {
            let error = error.to_string();
            let (what, remedy) = error.split_once(". ").unwrap_or((&error, ""));
            vec![weir_site::Problem::whole(&name, what, remedy)]
        })?;
        let half = published.as_ref().map(|snapshot| &*snapshot.half);
        let mut problems = weir_site::against_kernel(&site, &kernel, &name);
        if let Some(Err(order)) = half.map(|half| beside::check_order(&site, half)) {
            let (what, remedy) = order.split_once(". ").unwrap_or((&order, ""));
            problems.push(weir_site::Problem::whole(&name, what, remedy));
        }
        match problems {
            problems if problems.is_empty() => {
                let mut here = weir_site::warnings_here(&site, &kernel);
                here.extend(onto_links::warnings(&site, &kernel));
                here.extend(undelegated(arguments, &site));
                here.extend(taken(&runtime, &site));
                let own = weir_publish::guard::table(pins.directory());
                let ruleset = runtime.block_on(guard::ruleset());
                here.extend(filters::unasked(&site, &kernel, &filters::of(&ruleset, &own)));
                let forwards = pins.is_claimed(Role::Dataplane).unwrap_or(false);
                here.extend(half.iter().flat_map(|half| beside::warnings(&site, half, forwards)));
                Ok(Site { warnings: [site.warnings.clone(), here].concat(), ..site })
            }
            problems => Err(problems),
        }
    });
    let (problems, warnings) = match &checked {
        Ok(site) => (Vec::new(), site.warnings.clone()),
        Err(problems) => (problems.iter().map(ToString::to_string).collect(), Vec::new()),
    };
    let exit = if checked.is_ok() { Exit::Ok } else { Exit::Invalid };
    if json {
        let value = json!({
            "valid": checked.is_ok(), "errors": problems, "warnings": warnings,
        });
        output::print(&output::json("check", value));
        return exit;
    }
    problems.iter().for_each(|problem| output::note(problem));
    warnings.iter().for_each(|warning| output::note(&format!("warning: {warning}")));
    match &checked {
        Ok(site) => output::print(&format!(
            "{}: valid, {} uplinks, {} policies, {} rules\n",
            file.display(),
            site.uplinks.len(),
            site.policies.len(),
            site.rules.len()
        )),
        Err(problems) => {
            output::note(&format!("{}: {} errors", file.display(), problems.len()));
            exit
        }
    }
}

/// What is published, if anything is.
fn published(pins: &Pins) -> Result<Option<Box<Snapshot>>, Error> {
    match ControlRegion::open(pins, Access::Read) {
        Ok(region) => Ok(region.snapshot()),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Rules and routes of a control process that had no time to remove them, or left them to commands.
/// Those of another gateway in this network namespace stay.
fn remove_routes(pins: &Pins) -> anyhow::Result<()> {
    let _claim = match own::Claim::take(pins.directory()) {
        Ok(claim) => claim,
        Err(other) => {
            output::warn(&format!("rules and routes stay: {other}"));
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Watcher::new()?.remove_own(&BTreeSet::new()).await })
}

/// Interfaces of this network namespace that have an XDP program.
fn with_xdp() -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(xdp::interfaces())
}

/// What keeps the kernel from forwarding on its own: the last to go.
fn remove_guard(pins: &Pins) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let table = weir_publish::guard::table(pins.directory());
    runtime.block_on(guard::remove(&table))
}

/// Removes everything weir keeps in the kernel. Refused while somebody answers, whatever version it
/// is of and whatever it locks, unless that one's shared memory is in another directory.
pub fn detach(arguments: &Arguments, pins: &Pins, force: bool) -> Exit {
    let (json, socket, directory) = (arguments.json, &arguments.socket, pins.directory());
    let listener = elsewhere::listener(socket);
    let elsewhere = listener.and_then(|pid| Elsewhere::of(pid, directory));
    let refused = match &elsewhere {
        Some(hidden) if hidden.is_hidden() => Some(hidden.tell(socket, directory)),
        Some(_) => None,
        None => listener.map(|_| {
            let program = Role::Control.program();
            Error::Claimed { directory: directory.into(), program }.to_string()
        }),
    };
    if let Some(told) = refused {
        return output::fail(json, Exit::Failed, &format!("nothing is removed: {told}"));
    }
    let elsewhere = elsewhere.map(|other| other.tell(socket, directory));
    let done = match detached(pins, force) {
        Ok(done) => done,
        Err(error) => return output::fail(json, Exit::Failed, &format!("{error:#}")),
    };
    let directory = directory.display();
    output::print(&match done {
        Detached { removed, set, left, forwards_ipv6 } if json => output::json(
            "detach",
            json!({
                "directory": pins.directory(), "removed": removed, "set": set, "xdp_left": left,
                "forwards_ipv6": forwards_ipv6,
            }),
        ),
        Detached { removed, left, .. } if removed.is_empty() => {
            let mut text = format!("nothing to remove in {directory}\n");
            if !left.is_empty() {
                text += &format!(
                    "an XDP program is on {}: if it is weir's, other pins hold it, of another --pins \
                     or in another mount namespace (`ip netns exec` makes one for each command)\n",
                    left.join(", ")
                );
            }
            text + &elsewhere.map(|told| format!("{told}\n")).unwrap_or_default()
        }
        Detached { removed, set, forwards_ipv6, .. } => {
            let mut text = format!("removed {} from {directory}\n", removed.join(" "));
            if pins.directory().exists() {
                text += &format!("{directory} stays: not all in it is weir's\n");
            }
            if !set.is_empty() {
                text += &format!("set {}, as before weir\n", set.join(", "));
            }
            if forwards_ipv6 {
                text += FORWARDS_IPV6;
            }
            text
        }
    })
}

/// What is said of a kernel that goes on by itself.
const FORWARDS_IPV6: &str = "\
IPv6: the kernel goes on forwarding it, which is not weir's to end, and nothing of weir's is left to
keep out what comes from outside, or to keep a LAN's sources from providers that do not know them.
Hosts that `ra` told of the gateway send by it for up to its router_lifetime, 45m unless the file
says otherwise. To end it: `sysctl -w net.ipv6.conf.all.forwarding=0`
";

struct Detached {
    removed: Vec<String>,
    /// Settings of the kernel's that were put back.
    set: Vec<String>,
    /// Interfaces with an XDP program, when there was nothing to remove.
    left: Vec<String>,
    /// Weir guarded IPv6, which the kernel forwards on its own now.
    forwards_ipv6: bool,
}

fn detached(pins: &Pins, force: bool) -> anyhow::Result<Detached> {
    // Held to the end: a process that starts meanwhile would work on what is being removed.
    let mut claims = Vec::new();
    let roles = Role::ALL.iter().filter(|_| pins.directory().exists());
    for role in roles.filter(|role| !(force && **role == Role::Dataplane)) {
        let claim = pins.claim(*role);
        claims.push(match role {
            Role::Control => claim?,
            Role::Dataplane => claim.context("it takes --force to detach a running dataplane")?,
        });
    }
    let before = sysctls::before(pins).context("nothing is removed")?;
    // Of another version's layout nothing is known.
    let guarded = published(pins).ok().flatten().is_some_and(|it| it.half.serves_ipv6());
    remove_routes(pins).context("weir's rules and routes are still there")?;
    Confined::find().sweep();
    // While the rest still keeps what comes from a LAN from leaving as it is.
    let set = sysctls::put_back(before)?;
    let removed = pins.remove()?;
    remove_guard(pins).context("weir's nftables table is still there")?;
    let left = if removed.is_empty() { with_xdp()? } else { Vec::new() };
    let forwards_ipv6 = guarded && sysctls::forwards_ipv6();
    Ok(Detached { removed, set, left, forwards_ipv6 })
}
