//! Names that come from elsewhere and become part of addresses and paths here.

/// Longest path of a file that is taken.
const MAX_PATH_BYTES: usize = 512;

/// Returns whether this can be the owner or the name of a repository.
pub(crate) fn is_repository_part(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=96).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('.') && !name.contains("..")
}

/// Returns whether this can be a branch, a tag or a commit.
pub(crate) fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    revision.len() <= 256 && revision.chars().all(allowed) && revision.split('/').all(part)
}

/// Returns whether this is the full hash of a commit.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether this is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a file's path stays below the folder it is put in, on every system, and can be
/// shown on a terminal.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    (1..=MAX_PATH_BYTES).contains(&path.len())
        && !path.contains(['\\', ':'])
        && !path.chars().any(|c| c.is_control() || is_invisible(c))
        && path.split('/').all(part)
}

/// Characters that show nothing or turn the direction of writing.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_or_deceive_are_refused() {
        for path in ["a.gguf", "sub/a b.gguf", "ä/日本.gguf", ".gitattributes", "a..b/c"] {
            assert!(is_safe_path(path), "{path:?}");
        }
        let long = "x".repeat(513);
        for path in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
            "a\u{1b}[2Jb",
            "a\u{202e}b",
            long.as_str(),
        ] {
            assert!(!is_safe_path(path), "{path:?}");
        }
    }

    #[test]
    fn commits_and_digests_are_lower_case_hexadecimal_of_their_length() {
        assert!(is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("main"));
        assert!(is_sha256(&"0a".repeat(32)) && !is_sha256(&"0g".repeat(32)) && !is_sha256(""));
        assert!(is_revision("refs/pr/1") && is_revision("v1.0+x") && !is_revision("a/../b") && !is_revision(""));
    }
}
