//! The configuration's `telemetry`, and its policy: fail open, unless counting is required.

use std::path::Path;

use super::{behind::Behind, config::Config, field::Field};
use crate::{
    attachment::Attachment,
    error::{Kind, Result},
    record::PodName,
    telemetry::{self, Attached, Choice, Identity},
};

/// How the configuration wants a pod to be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// Whether at all.
    pub enabled: bool,
    /// Whether a pod that can't be counted must not start.
    pub required: bool,
    choice: Choice,
}

impl Counting {
    /// Checks the key `telemetry`.
    ///
    /// # Errors
    /// [`Kind::Config`] naming key and value.
    pub fn parse(config: &Config) -> Result<Self> {
        let section = config.root().get("telemetry").map(Field::object).transpose()?;
        let get = |key: &str| section.as_ref().and_then(|section| section.get(key));
        Ok(Self {
            enabled: get("enabled").map_or(Ok(true), |flag| flag.flag())?,
            required: get("required").map_or(Ok(false), |flag| flag.flag())?,
            choice: get("attach").map_or(Ok(Choice::default()), |choice| choice.decode())?,
        })
    }

    /// The same without the qdisc slot that a plugin behind us needs, where the choice is ours.
    pub fn beside(self, behind: &Behind) -> Self {
        let leave = behind.wants_slot && self.choice == Choice::Auto;
        Self { choice: if leave { Choice::Tcx } else { self.choice }, ..self }
    }

    /// How the pod is to be counted, if it is: for the record, before anything is made.
    pub fn intend(&self) -> Option<Attached> {
        self.enabled.then(|| telemetry::intend(self.choice))
    }

    /// Hooks the programs to a host-side interface; says how the pod is counted. Where that fails and
    /// is not required, the pod goes uncounted, and stderr says so.
    ///
    /// `journal` writes down what there is to take away again where it is not what was intended.
    ///
    /// # Errors
    /// [`Kind::Telemetry`], if counting is required; what `journal` says.
    pub fn attach(
        &self,
        config: &Config,
        attachment: &Attachment,
        pod: &PodName,
        host_ifindex: u32,
        intent: Option<Attached>,
        journal: impl FnMut(Attached) -> Result<()>,
    ) -> Result<Option<Attached>> {
        let Some(intent) = intent else { return Ok(None) };
        let identity = identity(attachment, pod);
        let (bpf_dir, choice) = (&config.bpf_dir, self.choice);
        self.tolerate(telemetry::attach(bpf_dir, choice, host_ifindex, &identity, intent, journal))
    }

    /// Compares the hooks with what [`attach`](Self::attach) left. Where counting isn't required a reload that
    /// stands still is a note on stderr: a failed CHECK may end the pod, which has its network.
    ///
    /// # Errors
    /// [`Kind::Difference`] naming what is missing; [`Kind::TryAgain`], if counting is required.
    pub fn verify(&self, bpf_dir: &Path, host_ifindex: u32, attached: &Attached) -> Result<()> {
        match telemetry::verify(bpf_dir, host_ifindex, attached) {
            Err(err) if err.kind() == Kind::TryAgain && !self.required => {
                eprintln!("weir: whether the pod is counted is not known: {err}");
                Ok(())
            }
            verified => verified,
        }
    }

    /// Makes a failure to count an uncounted pod, unless counting is required.
    ///
    /// # Errors
    /// The failure, if counting is required, or if it is none of telemetry, of its locks or of the kernel: a
    /// wrong namespace, or a record that can't be written, is not a matter of counting alone.
    pub fn tolerate<T>(&self, attempt: Result<T>) -> Result<Option<T>> {
        match attempt {
            Ok(done) => Ok(Some(done)),
            Err(err)
                if !self.required
                    && matches!(err.kind(), Kind::Telemetry | Kind::TryAgain | Kind::Kernel) =>
            {
                eprintln!("weir: the pod goes uncounted: {err}");
                Ok(None)
            }
            Err(err) => Err(err),
        }
    }
}

/// Whose traffic it is: without Kubernetes the container id is the pod's name.
pub fn identity(attachment: &Attachment, pod: &PodName) -> Identity {
    let name = if pod.name.is_empty() { attachment.container_id() } else { &pod.name };
    Identity {
        namespace: pod.namespace.clone(),
        pod: name.to_owned(),
        uid: pod.uid.clone(),
        container_id: attachment.container_id().to_owned(),
        ifname: attachment.ifname().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::Error;

    fn parse(telemetry: Value) -> Result<Counting> {
        let json = json!({"cniVersion": "1.1.0", "name": "n", "telemetry": telemetry});
        Counting::parse(&Config::parse(json).unwrap())
    }

    #[test]
    fn a_pod_is_counted_but_need_not_be_by_default() {
        let counting = parse(json!(null)).unwrap();
        assert_eq!((counting.enabled, counting.required), (true, false));
        assert_eq!(parse(json!({"attach": "tcx"})).unwrap().choice, Choice::Tcx);
    }

    #[test]
    fn a_wrong_value_is_named() {
        for wrong in [json!(true), json!({"attach": "xdp"}), json!({"required": 1})] {
            let err = parse(wrong).unwrap_err();
            assert_eq!(err.kind(), Kind::Config);
            assert!(err.msg().starts_with("telemetry"), "{err}");
        }
    }

    #[test]
    fn only_a_required_failure_stops_the_pod() {
        let failure = || Err::<(), _>(Error::new(Kind::Telemetry, "no bpffs"));
        assert_eq!(parse(json!({})).unwrap().tolerate(failure()), Ok(None));
        assert!(parse(json!({"required": true})).unwrap().tolerate(failure()).is_err());
        let full = Err::<(), _>(Error::new(Kind::Io, "no space left"));
        assert_eq!(parse(json!({})).unwrap().tolerate(full).unwrap_err().kind(), Kind::Io);
    }
}
