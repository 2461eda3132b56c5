//! From the file to a [`Site`]: names become indices, and what makes no sense is refused.

use std::collections::HashMap;

use weir_layout::control::{OnDataplaneLoss, Tier};
use weir_layout::{MAX_POLICIES, MAX_RULES, MAX_UPLINKS};

use super::checker::Checker;
use super::place::{Places, Problem};
use super::schema::{self, File};
use super::set_files::{SetFile, SetFiles};
use super::sets;
use super::{
    Site, capacity, filter, gateway, ipfix, lans, metrics, nat_log, policies, port_mapping,
    publish, uplinks, warn,
};

/// The site that the file describes, and the files of its sets, or all that is wrong with it.
/// `hash` is of the file's text.
pub fn resolve(
    file: &File,
    places: &Places<'_>,
    hash: u64,
    set_files: SetFiles<'_>,
) -> Result<(Site, Vec<SetFile>), Vec<Problem>> {
    let mut c = Checker { places, problems: Vec::new(), warnings: Vec::new() };
    let given = &file.gateway;
    let workers = gateway::workers(&mut c, given);
    let flow_table = gateway::flow_table(&mut c, given);
    let nat_ports = gateway::nat_ports(&mut c, given, workers);
    let cores = gateway::cores(&mut c, given, workers);
    let hooks = gateway::hooks(&mut c, given);
    let timeouts = gateway::timeouts(&mut c, &file.timeouts);
    let flows_per_host = gateway::flows_per_host(&mut c, &file.limits);
    let nat_log = nat_log::nat_log(&mut c, file.nat_log.as_ref());
    let ipfix = ipfix::ipfix(&mut c, file.ipfix.as_ref());
    let metrics = metrics::listen(&mut c, file.metrics.as_ref());
    let new_flows_per_host = gateway::new_flows_per_host(&mut c, &file.limits);

    counts(&mut c, file);
    interfaces(&mut c, file);
    let uplinks_known = c.unique("uplink", file.uplink.iter().map(|u| &u.get_ref().name));
    let lans = lans::lans(&mut c, file);
    let mut uplinks = uplinks::uplinks(&mut c, file, &lans);
    let policies = policies::policies(&mut c, file, &uplinks, &uplinks_known);
    uplinks::enable_passive(&mut uplinks, &policies);
    let policies_known: HashMap<_, _> =
        policies.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
    let default_policy = match &given.default_policy {
        Some(name) => c.find("policy", name, &policies_known) as u8,
        None => policies_known.get(policies::DEFAULT_POLICY).copied().unwrap_or(0) as u8,
    };
    let (sets, set_files) = sets::sets(&mut c, file, set_files);
    let rules = filter::rules(&mut c, file, &uplinks, &sets, [&policies_known, &uplinks_known]);
    let ports = (nat_ports, workers);
    let publish = publish::publish(&mut c, file, &uplinks, &uplinks_known, &sets, ports);
    let sets = sets.finish(&mut c, &rules, &publish);
    let port_mapping = port_mapping::limits(&mut c, file, nat_ports);
    c.warnings.extend(warn::of_file(file, &uplinks, &policies, &rules, default_policy));
    c.warnings.extend(warn::accepts_nothing(&uplinks, &rules, &publish));
    c.warnings.extend(capacity::warnings(&uplinks, &policies));
    c.warnings.extend(nat_log.as_ref().and_then(|log| nat_log::crowded(log, flow_table)));

    if !c.problems.is_empty() {
        return Err(c.problems);
    }
    let site = Site {
        hash,
        workers,
        cores,
        flow_table,
        nat_ports,
        on_dataplane_loss: match given.on_dataplane_loss {
            schema::OnDataplaneLoss::Drop => OnDataplaneLoss::Drop,
            schema::OnDataplaneLoss::Kernel => OnDataplaneLoss::Kernel,
        },
        tier: match given.tier {
            schema::Tier::Kernel => Tier::Kernel,
            schema::Tier::User => Tier::User,
        },
        own_traffic: given.own_traffic,
        sysctls: given.sysctls,
        group: given.group.as_ref().map(|group| group.get_ref().clone()),
        hooks,
        default_policy,
        timeouts,
        flows_per_host,
        new_flows_per_host,
        nat_log,
        ipfix,
        metrics,
        lans,
        uplinks,
        policies,
        sets,
        rules,
        publish,
        port_mapping,
        mapped: Vec::new(),
        warnings: c.warnings,
    };
    Ok((site, set_files))
}

/// Refuses a site without a side, and more of anything than there is room for.
fn counts(c: &mut Checker<'_>, file: &File) {
    if file.lan.is_empty() {
        c.whole("there is no LAN", "add [[lan]] with an interface");
    }
    if file.uplink.is_empty() {
        c.whole("there is no uplink", "add [[uplink]] with a name and an interface");
    }
    c.too_many("uplinks", file.uplink.len(), MAX_UPLINKS);
    c.too_many("LANs and uplinks", file.uplink.len() + file.lan.len(), MAX_UPLINKS);
    c.too_many("policies", file.policy.len(), MAX_POLICIES);
    c.too_many("rules", file.rule.len(), MAX_RULES);
}

/// Each interface is of one LAN or one uplink.
fn interfaces(c: &mut Checker<'_>, file: &File) {
    let lans = file.lan.iter().map(|l| &l.get_ref().interface);
    let all = lans.chain(file.uplink.iter().map(|u| &u.get_ref().interface));
    c.unique("interface", all.clone());
    all.for_each(|name| c.interface(name));
}
