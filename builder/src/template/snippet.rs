//! Files for pipelines and clusters, filled in for an image: [`Snippet`] and the [`Values`] that go into it.

use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::reference::Reference;
use crate::report::Composition;

/// The longest name that Kubernetes gives to a Service.
const LONGEST_NAME: usize = 63;

/// A file of `templates/ci/` or `templates/deploy/`. Its first line is a comment that says what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet(String);

/// What is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// Name of objects in a cluster: a DNS label.
    pub name: String,
    /// The name the model is served under.
    pub model: String,
    /// The image, by digest.
    pub image: String,
    /// The repository that images are pushed to.
    pub repository: String,
    /// Port that the server listens at.
    pub port: u16,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What keeps an image from being filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// The user is not given by numbers, so that a cluster cannot tell that it is not root.
    #[error("the image's user is `{found}`, expected UID:GID")]
    User {
        /// The user of the image's config.
        found: String,
    },
    /// The image says no port, or several.
    #[error("the image exposes {found} TCP ports, expected one")]
    Ports {
        /// How many it exposes.
        found: usize,
    },
}

impl Default for Values {
    /// Placeholders that leave every file valid.
    fn default() -> Self {
        Self {
            name: "my-model".to_owned(),
            model: "my-model".to_owned(),
            image: "registry.example.com/acme/my-model:1".to_owned(),
            repository: "registry.example.com/acme/my-model".to_owned(),
            port: 8080,
            uid: 65532,
            gid: 65532,
        }
    }
}

impl Values {
    /// Takes the values from an image's config. An image that is in no registry keeps the placeholder's repository.
    ///
    /// # Errors
    /// Where the config has no numeric user or not exactly one port.
    pub fn of(
        config: &ImageConfig,
        composition: &Composition,
        reference: Option<&Reference>,
        digest: Digest,
    ) -> Result<Self, ValuesError> {
        let user = config.config.user.clone().unwrap_or_default();
        let ids = user.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let Some((uid, gid)) = ids else { return Err(ValuesError::User { found: user }) };
        let ports: Vec<u16> =
            config.config.exposed_ports.keys().filter_map(|port| port.trim_end_matches("/tcp").parse().ok()).collect();
        let [port] = ports[..] else { return Err(ValuesError::Ports { found: ports.len() }) };
        let name = dns_label(&composition.model);
        let repository = reference.map_or_else(|| format!("registry.example.com/acme/{name}"), Reference::name);
        let image = format!("{repository}@{digest}");
        Ok(Self { name, model: composition.model.clone(), image, repository, port, uid, gid })
    }

    fn pairs(&self) -> [(&'static str, String); 7] {
        [
            ("__NAME__", self.name.clone()),
            ("__MODEL__", self.model.clone()),
            ("__IMAGE__", self.image.clone()),
            ("__REPOSITORY__", self.repository.clone()),
            ("__PORT__", self.port.to_string()),
            ("__UID__", self.uid.to_string()),
            ("__GID__", self.gid.to_string()),
        ]
    }
}

impl Snippet {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What it is for, from its first line.
    #[must_use]
    pub fn purpose(&self) -> &str {
        self.0.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }

    /// The text with its marks replaced.
    #[must_use]
    pub fn fill(&self, values: &Values) -> String {
        values.pairs().iter().fold(self.0.clone(), |text, (mark, value)| text.replace(mark, value))
    }
}

/// The nearest name that Kubernetes takes for a Service: lower-case letters, digits and dashes, beginning with a letter.
fn dns_label(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = text.chars().map(plain).collect();
    let label = label.trim_matches('-');
    let label = if label.starts_with(|c: char| c.is_ascii_lowercase()) { label.to_owned() } else { format!("model-{label}") };
    label[..label.len().min(LONGEST_NAME)].trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_service_may_be_called() {
        for (model, expected) in [
            ("magika", "magika"),
            ("ResNet50_v2.onnx", "resnet50-v2-onnx"),
            ("2-layer", "model-2-layer"),
            ("-x-", "x"),
            ("", "model"),
            ("日本", "model"),
        ] {
            assert_eq!(dns_label(model), expected, "{model}");
        }
        assert_eq!(dns_label(&"a".repeat(80)).len(), 63);
        assert_eq!(dns_label(&format!("{}-b", "a".repeat(62))).len(), 62);
    }

    #[test]
    fn no_mark_is_left_and_the_purpose_is_the_first_line() {
        let snippet = Snippet::new("# Says what.\nname: __NAME__\nport: __PORT__\nimage: __IMAGE__\n");
        assert_eq!(snippet.purpose(), "Says what.");
        let text = snippet.fill(&Values::default());
        assert_eq!(text, "# Says what.\nname: my-model\nport: 8080\nimage: registry.example.com/acme/my-model:1\n");
    }
}
