use super::*;

#[test]
fn globs_are_those_of_paths() {
    for (pattern, text, fits) in [
        ("/usr/bin/*", "/usr/bin/git", true),
        ("/usr/*", "/usr/bin/git", false),
        ("/usr/**/git", "/usr/local/bin/git", true),
        ("/usr/bin/gi?", "/usr/bin/git", true),
        ("/usr?bin/git", "/usr/bin/git", false),
        ("git", "git-evil", false),
        ("git*", "git-shell", true),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
    }
}

#[test]
fn a_program_is_where_its_directory_truly_is() {
    let shell = fs::canonicalize("/bin").unwrap_or_default().join("sh");
    for name in ["/bin/sh", "/usr/../bin/sh", "/bin/./sh"] {
        assert_eq!(
            resolved(name, Path::new("/tmp")).map(|found| found.path).as_ref(),
            Some(&shell),
            "{name}"
        );
    }
    assert_eq!(resolved("./nothing", Path::new("/tmp")), None);
    assert!(resolved("sh", Path::new("/nowhere")).is_some_and(|found| found.path.ends_with("sh")));
}
