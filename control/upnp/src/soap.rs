//! The form of actions and their results (UDA §3): SOAP 1.1 by XML. There are no document types, so
//! no entities; a document has few elements and is short.

use roxmltree::{Document, Node, ParsingOptions};

use crate::device::Service;
use crate::fault::Fault;

/// Namespace of the envelope.
const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// Elements, texts and comments of a document: the longest action has nine arguments. It bounds the
/// depth as well.
const MAX_NODES: u32 = 64;
/// The result that is a document of its own (WANIPConnection:2 §2.5.21).
pub const LISTING: &str = "NewPortListing";
/// The longest document that is read, bytes.
pub const LONGEST: usize = 8192;

/// An action that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The service's URN, of the version that the client has.
    pub urn: String,
    /// Its name.
    pub name: String,
    arguments: Vec<(String, String)>,
}

impl Action {
    /// Reads one: `header` is that of SOAPACTION, which names the same as the body. None: it is
    /// nothing of the kind.
    pub fn read(service: Service, header: &str, body: &[u8]) -> Option<Self> {
        let (urn, name) = header.trim().trim_matches('"').split_once('#')?;
        if body.len() > LONGEST || !service.is_named(urn) {
            return None;
        }
        let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let text = str::from_utf8(body).ok()?.trim_matches(['\0', '\u{feff}', ' ', '\r', '\n']);
        let document = Document::parse_with_options(text, options).ok()?;
        let envelope = Some(document.root_element()).filter(|it| is(it, ENVELOPE, "Envelope"))?;
        let body = envelope.children().find(|it| is(it, ENVELOPE, "Body"))?;
        let action = body.children().find(Node::is_element)?;
        if !is(&action, urn, name) {
            return None;
        }
        let argument = |node: Node<'_, '_>| {
            let texts = node.children().filter_map(|child| child.text());
            (node.tag_name().name().to_owned(), texts.collect::<String>().trim().to_owned())
        };
        let arguments = action.children().filter(Node::is_element).map(argument).collect();
        Some(Self { urn: urn.to_owned(), name: name.to_owned(), arguments })
    }

    /// Is it asked for by a client of version 1?
    pub fn is_of_version_1(&self) -> bool {
        self.urn.ends_with(":1")
    }

    /// An argument.
    ///
    /// # Errors
    /// [`Fault::InvalidArgs`] without it.
    pub fn text(&self, name: &str) -> Result<&str, Fault> {
        let found = self.arguments.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.as_str()).ok_or(Fault::InvalidArgs)
    }

    /// An argument that is a number, or an address.
    ///
    /// # Errors
    /// [`Fault::InvalidArgs`] without it, or if it is none.
    pub fn value<T: std::str::FromStr>(&self, name: &str) -> Result<T, Fault> {
        self.text(name)?.parse().map_err(|_| Fault::InvalidArgs)
    }

    /// The same, and what is meant without it.
    ///
    /// # Errors
    /// [`Fault::InvalidArgs`] if it is none.
    pub fn value_or<T: std::str::FromStr>(&self, name: &str, without: T) -> Result<T, Fault> {
        if self.text(name).is_ok() { self.value(name) } else { Ok(without) }
    }

    /// An argument that is yes or no; without it yes.
    ///
    /// # Errors
    /// [`Fault::InvalidArgs`] if it is neither.
    pub fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.text(name).unwrap_or("1") {
            "1" | "true" | "yes" => Ok(true),
            "0" | "false" | "no" => Ok(false),
            _ => Err(Fault::InvalidArgs),
        }
    }

    /// The answer with results, in the order of the description.
    pub fn answer(&self, results: &[(&str, String)]) -> String {
        let result = |(name, value): &(&str, String)| match *name {
            // A document: miniupnpc reads it as it stands. Its texts are escaped, so none ends it.
            LISTING => format!("<{name}><![CDATA[{value}]]></{name}>"),
            _ => element(name, value),
        };
        let results: String = results.iter().map(result).collect();
        let Self { urn, name, .. } = self;
        envelope(&format!("<u:{name}Response xmlns:u=\"{urn}\">{results}</u:{name}Response>"))
    }
}

/// The answer to an action that is refused.
pub fn refusal(fault: Fault) -> String {
    envelope(&format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
         <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{}</errorCode>\
         <errorDescription>{}</errorDescription></UPnPError></detail></s:Fault>",
        fault.code(),
        fault.text()
    ))
}

/// An element with a text.
pub fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// A text as it stands in a document.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"{ENVELOPE}\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\">\
         <s:Body>{body}</s:Body></s:Envelope>\r\n"
    )
}

fn is(node: &Node<'_, '_>, namespace: &str, name: &str) -> bool {
    node.is_element()
        && node.tag_name().name() == name
        && node.tag_name().namespace() == Some(namespace)
}
