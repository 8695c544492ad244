//! `docs/configuration.md` is what the table of settings says. `MOONCAKE_UPDATE=1` writes it anew.

use std::path::Path;

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let expected = mooncake::config::document();
    if std::env::var_os("MOONCAKE_UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
    assert!(
        found == expected,
        "{} is stale from line {} on; MOONCAKE_UPDATE=1 writes it anew",
        path.display(),
        same + 1
    );
}
