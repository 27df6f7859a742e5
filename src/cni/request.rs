//! The call as it arrived: environment variables and standard input, checked for presence and form.

use std::{ffi::OsString, io::Read, path::PathBuf};

use crate::{
    attachment::Attachment,
    error::{Context, Error, Kind, Result},
};

/// The most that is read from stdin. Configurations are a few kilobytes; the rest is hostile.
const MAX_STDIN: u64 = 1 << 20;

/// What is asked for, with the parameters that this verb has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make the attachment in that namespace.
    Add(Attachment, PathBuf),
    /// Compare the attachment in that namespace with what ADD made.
    Check(Attachment, PathBuf),
    /// Take the attachment away. Its namespace is not looked at: it may be gone, or be another by
    /// now, and everything that is to be removed has an end on the host.
    Del(Attachment),
    /// Take away what the runtime doesn't know any more.
    Gc,
    /// Could an ADD be served?
    Status,
    /// Which spec versions are spoken?
    Version,
}

/// A call: what is asked for, and what an IPAM plugin may need of its environment.
#[derive(Debug, Clone)]
pub struct Request {
    /// The verb and its parameters.
    pub command: Command,
    /// `CNI_ARGS`, or empty.
    pub args: String,
    /// `CNI_PATH`, or empty.
    pub path: OsString,
}

impl Request {
    /// Reads the variables. An empty one counts as missing: libcni sets those it has no value for.
    ///
    /// # Errors
    /// [`Kind::Environment`], naming every variable that is missing, or the one that is wrong.
    pub fn parse(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let raw = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let utf8 = |value: OsString| {
                value.into_string().map_err(|value| {
                    Error::new(Kind::Environment, format!("{name} {value:?} is not UTF-8"))
                })
            };
            raw(name).map(utf8).transpose().map(Option::unwrap_or_default)
        };

        let verb = text("CNI_COMMAND")?;
        let required: &[&str] = match verb.as_str() {
            "ADD" | "CHECK" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            "DEL" => &["CNI_CONTAINERID", "CNI_IFNAME"],
            "GC" | "STATUS" | "VERSION" => &[],
            _ => {
                let msg =
                    format!("CNI_COMMAND {verb:?} is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
                return Err(Error::new(Kind::Environment, msg));
            }
        };
        let missing: Vec<_> = required.iter().copied().filter(|name| raw(name).is_none()).collect();
        if !missing.is_empty() {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            return Err(Error::new(Kind::Environment, msg));
        }

        let attachment = || Attachment::new(&text("CNI_CONTAINERID")?, &text("CNI_IFNAME")?);
        // The reply repeats the path, and JSON can't say what is not UTF-8.
        let netns = || text("CNI_NETNS").map(PathBuf::from);
        let command = match verb.as_str() {
            "ADD" => Command::Add(attachment()?, netns()?),
            "CHECK" => Command::Check(attachment()?, netns()?),
            "DEL" => Command::Del(attachment()?),
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            _ => Command::Version,
        };
        // Of the arguments only an ADD reads some: others must not fail for one that is not UTF-8.
        let args = raw("CNI_ARGS").unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { command, args, path: raw("CNI_PATH").unwrap_or_default() })
    }
}

/// Reads standard input to its end.
///
/// # Errors
/// [`Kind::Io`]: it can't be read, or is longer than 1 MiB.
pub fn read_stdin(stdin: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    let read = stdin.take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.context(Kind::Io, || "can't read the configuration from stdin".into())?;
    if bytes.len() as u64 > MAX_STDIN {
        let msg = format!("the configuration on stdin is longer than {MAX_STDIN} bytes");
        return Err(Error::new(Kind::Io, msg));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Request> {
        Request::parse(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        let err = parse(variables).unwrap_err();
        assert_eq!(err.kind(), Kind::Environment);
        err.msg().to_owned()
    }

    #[test]
    fn all_missing_variables_are_named_at_once() {
        for verb in ["ADD", "CHECK"] {
            let missing = refusal(&[("CNI_COMMAND", verb), ("CNI_NETNS", "")]);
            assert!(missing.contains("[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"), "{missing}");
        }
        let missing = refusal(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1")]);
        assert!(missing.contains("[CNI_IFNAME]"), "{missing}");
    }

    #[test]
    fn an_unknown_command_is_named() {
        for verb in ["", "add", "UPDATE", "ADD "] {
            assert!(refusal(&[("CNI_COMMAND", verb)]).contains(&format!("{verb:?}")));
        }
    }

    #[test]
    fn del_needs_no_namespace_and_the_nodes_verbs_need_nothing() {
        let call = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        let attachment = Attachment::new("c1", "eth0").unwrap();
        assert_eq!(parse(&call).unwrap().command, Command::Del(attachment));
        for (verb, command) in [("GC", Command::Gc), ("STATUS", Command::Status)] {
            assert_eq!(parse(&[("CNI_COMMAND", verb)]).unwrap().command, command);
        }
        let dummies = [
            ("CNI_COMMAND", "VERSION"),
            ("CNI_NETNS", "dummy"),
            ("CNI_IFNAME", "a dummy too long to be one"),
            ("CNI_CONTAINERID", "../x"),
        ];
        assert_eq!(parse(&dummies).unwrap().command, Command::Version);
    }

    #[test]
    fn what_is_not_utf8_is_refused_where_it_would_be_repeated() {
        let bytes = |name: &str| {
            Some(match name {
                "CNI_COMMAND" => "ADD".into(),
                "CNI_NETNS" => OsString::from_vec(vec![b'/', 0xff]),
                _ => "x".into(),
            })
        };
        assert!(Request::parse(bytes).unwrap_err().msg().contains("CNI_NETNS"));
    }

    #[test]
    fn stdin_is_bounded() {
        assert_eq!(read_stdin(&b"{}"[..]).unwrap(), b"{}");
        assert_eq!(read_stdin(std::io::repeat(b' ')).unwrap_err().kind(), Kind::Io);
    }
}
