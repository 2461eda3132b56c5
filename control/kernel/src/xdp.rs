//! Which interfaces have an XDP program, whoever attached it (`rtnl_xdp_fill`, net/core/rtnetlink.c).

use anyhow::Result;
use futures_util::stream::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

/// Those of this network namespace, by name.
///
/// # Errors
/// When the kernel does not tell.
pub async fn interfaces() -> Result<Vec<String>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut links = handle.link().get().execute();
    let mut found = Vec::new();
    while let Some(link) = links.try_next().await? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        found.extend(name.filter(|_| link.attributes.iter().any(is_attached)));
    }
    Ok(found)
}

fn is_attached(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::Xdp(xdp) = attribute else { return false };
    xdp.iter().any(|xdp| matches!(xdp, LinkXdp::Attached(how) if *how != XdpAttached::None))
}
