//! Whatever hosts send: nothing panics, and what is granted is the asker's.

mod site;

use site::{HOST, Site, device, ip, mapping, request};
use weir_upnp::Service;
use weir_upnp::soap::Action;
use weir_upnp::ssdp::Search;

#[test]
fn no_datagram_makes_it_panic() {
    bolero::check!().for_each(|datagram| {
        if let Some(search) = Search::read(datagram) {
            assert!(search.answers(&device(), (ip("10.0.0.1"), 1900).into()).len() <= 10);
        }
    });
}

#[test]
fn no_document_makes_it_panic() {
    let header = "urn:schemas-upnp-org:service:WANIPConnection:2#AddPortMapping";
    bolero::check!().for_each(|body| {
        assert_eq!(Action::read(Service::Connection, header, body), None);
    });
}

/// A request that is nearly sound: bytes of it are others, some are gone.
#[test]
fn no_request_grants_a_port_of_another_host() {
    bolero::check!().with_type::<(Vec<(u16, u8)>, u16)>().for_each(|(changes, end)| {
        let mut site = Site::default();
        let arguments = mapping(HOST, &[]);
        let mut request = request(HOST, Service::Connection, "AddPortMapping", &arguments);
        let body = request.body_mut();
        for (at, byte) in changes {
            let at = usize::from(*at) % body.len();
            body[at] = *byte;
        }
        if end % 4 == 0 {
            body.truncate(usize::from(*end));
        }
        let reply = site.reply(HOST, &request);
        assert!([200, 400, 500].contains(&reply.status.as_u16()));
        assert_eq!(reply.status == 200, site.store.mappings().len() == 1);
        for mapping in site.store.mappings() {
            assert!(mapping.inside.ip() == ip(HOST) && mapping.is_sound());
            assert!(mapping.until <= site::NOW + 86_400_000);
        }
    });
}

/// Values of arguments, whatever they are.
#[test]
fn no_argument_makes_it_panic_or_grants_more_than_may_be() {
    let actions = ["AddPortMapping", "AddAnyPortMapping", "DeletePortMapping", "AddPinhole"];
    let names = [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ];
    bolero::check!().with_type::<(u8, u8, String)>().for_each(|(action, name, value)| {
        let mut site = Site::default();
        let changed = [(names[usize::from(*name) % names.len()], value.as_str())];
        let action = actions[usize::from(*action) % actions.len()];
        let request = request(HOST, Service::Connection, action, &mapping(HOST, &changed));
        let reply = site.reply(HOST, &request);
        assert!([200, 400, 500].contains(&reply.status.as_u16()), "{}", reply.document);
        assert!(site.store.mappings().iter().all(|it| it.inside.ip() == ip(HOST)));
    });
}
