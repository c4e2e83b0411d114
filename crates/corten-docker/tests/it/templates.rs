//! Templates against docker 28's answers: `docker version --format TEMPLATE` for every line of `data/go-templates.json`.

use corten_docker::template::{Template, Value};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    template: String,
    text: Option<String>,
    error: Option<String>,
}

/// Where our message names another part of the template than Go's; both refuse.
const DIFFERENT: [&str; 2] = ["{{(.Client).Os}} {{(index (split \"a,b\" \",\") 0).X}}", "{{join 5 \",\"}}"];

fn version() -> Value {
    let client = Value::structure(
        "system.clientVersion",
        vec![("Os".to_owned(), Value::from("linux")), ("Arch".to_owned(), Value::from("amd64"))],
    );
    Value::structure("system.versionInfo", vec![("Client".to_owned(), client)])
}

#[test]
fn templates_give_what_docker_gives() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/go-templates.json")).unwrap();
    assert!(cases.len() > 120);
    let mut wrong = Vec::new();
    for case in cases {
        let outcome = match Template::parse("version", &case.template) {
            Ok(template) => template.render(&version()).map_err(|error| error.to_string()),
            Err(error) => Err(format!("template parsing error: {error}")),
        };
        let expected = match (&case.text, &case.error) {
            (Some(text), _) => Ok(text.clone()),
            (None, error) => Err(error.clone().unwrap_or_default()),
        };
        let excused = DIFFERENT.contains(&case.template.as_str()) && outcome.is_err() && expected.is_err();
        if outcome != expected && !excused {
            wrong.push(format!("{:?}\n  docker: {expected:?}\n  corten: {outcome:?}", case.template));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

fn document(text: &str) -> Value {
    Value::from_serialize(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap()
}

fn render(template: &str, value: &Value) -> String {
    Template::parse("", template).unwrap().render(value).unwrap()
}

#[test]
fn maps_and_slices_print_as_in_go() {
    let value = document(r#"{"b":1,"a":[1,"x",null],"n":null,"f":1.5}"#);
    assert_eq!(render("{{.}}", &value), "map[a:[1 x <nil>] b:1 f:1.5 n:<nil>]");
    assert_eq!(render("{{.missing}}{{.missing.deeper}}", &value), "<no value><no value>");
    assert_eq!(render("{{range $k, $v := .}}{{$k}} {{end}}", &value), "a b f n ");
    assert_eq!(render("{{index .a 1}}{{len .a}}{{json .a}}", &value), "x3[1,\"x\",null]");
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    for endless in [
        "{{define \"R\"}}{{template \"R\"}}{{end}}{{template \"R\"}}",
        "{{range 2000000000}}{{range 2000000000}}x{{end}}{{end}}",
        "{{$x := \"aaaaaaaaaaaaaaaa\"}}{{range 1000}}{{$x = print $x $x}}{{end}}",
    ] {
        let template = Template::parse("", endless).unwrap();
        assert!(template.render(&Value::Nil).unwrap_err().to_string().contains("exceeded"), "{endless}");
    }
    let deep = format!("{}{{{{template \"R\"}}}}{}", "{{if 1}}".repeat(90), "{{end}}".repeat(90));
    let deep = Template::parse("", &format!("{{{{define \"R\"}}}}{deep}{{{{end}}}}{{{{template \"R\"}}}}")).unwrap();
    assert!(deep.render(&Value::Nil).unwrap_err().to_string().contains("exceeded"));
    assert!(Template::parse("", &"{{if 1}}".repeat(10_000)).is_err());
    assert!(Template::parse("", &format!("{{{{{}1}}}}", "(".repeat(10_000))).is_err());
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(\\{\\{-? ?|-?\\}\\}|[a-z.$|()\"'` 0-9:=,]|if|end|range|else|\\PC){0,40}") {
        if let Ok(template) = Template::parse("", &text) {
            let _outcome = template.render(&version());
        }
    }

    #[test]
    fn printf_never_panics(format in "[%a-zA-Z0-9.*+# -]{0,20}", number in any::<i64>(), word in "\\PC{0,5}") {
        let template = Template::parse("", "{{printf .f .n .w}}").unwrap();
        let fields = vec![
            ("f".to_owned(), Value::from(format)),
            ("n".to_owned(), Value::Int(number.into())),
            ("w".to_owned(), Value::from(word)),
        ];
        template.render(&Value::map(fields)).unwrap();
    }
}
