//! An image's config, and the names and digests that stand in such documents.

use layerctl::archive::ImageConfig;
use layerctl::model::{BlobDigest, DiffId, Reference};

use super::check_message;

/// The bytes as a config; and as a name and as digests if they are text.
pub fn check(data: &[u8]) {
    match ImageConfig::parse(data) {
        Ok(config) => assert!(config.diff_ids.len() <= 512),
        Err(error) => assert!(!error.is_empty()),
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Reference>() {
        Ok(reference) => {
            let again = reference.to_string();
            assert_eq!(
                again.parse::<Reference>().as_ref(),
                Ok(&reference),
                "{again:?}"
            );
            assert!(!again.contains(char::is_whitespace), "{again:?}");
        }
        Err(error) => check_message(&error),
    }
    if let Ok(id) = text.parse::<DiffId>() {
        assert_eq!(id.to_string(), text);
        assert_eq!(
            BlobDigest::from_hex(id.hex())
                .map(|d| d.to_string())
                .as_deref(),
            Ok(text)
        );
    }
}
