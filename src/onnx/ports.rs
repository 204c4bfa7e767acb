//! Holding what a caller feeds and asks for against what the model takes and gives.

use std::collections::HashMap;

use super::value::{Input, Value, check_view};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::graph::onnx::{OnnxDim, OnnxKind, OnnxPort};

/// Names that a message lists at most.
const LISTED: usize = 24;

/// The port called `name`, and its number.
///
/// # Errors
/// [`Error::InvalidArgument`] with the names there are; `what` is "input" or "output".
pub(super) fn find<'a>(
    file: &str,
    what: &str,
    ports: &'a [OnnxPort],
    name: &str,
) -> Result<(usize, &'a OnnxPort)> {
    ports.iter().enumerate().find(|(_, port)| port.name == name).ok_or_else(|| {
        Error::InvalidArgument(format!(
            "{file}: the model has no {what} \"{name}\"; its {what}s are {}",
            listed(ports.iter().map(described))
        ))
    })
}

/// A list for a message.
pub(super) fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A port for a message: its name, type and shape.
pub(super) fn described(port: &OnnxPort) -> String {
    let shape = port.shape.as_deref().map(shape_text).unwrap_or_default();
    format!("{} ({}{shape})", port.name, port.type_text())
}

fn shape_text(shape: &[OnnxDim]) -> String {
    let dim = |dim: &OnnxDim| match dim {
        OnnxDim::Fixed(len) => len.to_string(),
        OnnxDim::Named(name) => name.clone(),
        OnnxDim::Any(()) => "?".into(),
    };
    format!("[{}]", shape.iter().map(dim).collect::<Vec<_>>().join(", "))
}

/// Holds a value against the input that it is for.
///
/// # Errors
/// [`Error::InvalidArgument`] that says what is wanted and what was given.
pub(super) fn check(file: &str, port: &OnnxPort, input: &Input<'_>) -> Result<()> {
    let what = || format!("{file}: input \"{}\"", port.name);
    let wrong = |given: String| {
        Err(Error::InvalidArgument(format!(
            "{}: {given} was given where {} is wanted",
            what(),
            described(port)
        )))
    };
    match input {
        Input::Tensor(view) => {
            check_view(&what(), view)?;
            if !takes(port.kind, OnnxKind::Tensor) {
                return wrong("a tensor".into());
            }
            check_tensor(port, view.element.name(), view.shape).or_else(wrong)
        }
        Input::Value(value) => check_value(port, value).or_else(wrong),
    }
}

/// Whether an input of kind `wanted` takes a value of kind `given`: an optional one takes what it may hold.
fn takes(wanted: OnnxKind, given: OnnxKind) -> bool {
    wanted == given || wanted == OnnxKind::Optional
}

fn check_value(port: &OnnxPort, value: &Value) -> std::result::Result<(), String> {
    if !value.is_present() {
        return if port.kind == OnnxKind::Optional { Ok(()) } else { Err("an absent value".into()) };
    }
    if !takes(port.kind, value.kind()) {
        return Err(format!("a {}", value.kind().name()));
    }
    match (value.kind(), value.element()) {
        (OnnxKind::Tensor, Some(element)) => check_tensor(port, element.name(), value.shape()),
        _ => Ok(()),
    }
}

fn check_tensor(port: &OnnxPort, element: &str, shape: &[u64]) -> std::result::Result<(), String> {
    let given = || format!("a tensor of {element} of shape {shape:?}");
    if port.element.is_some_and(|wanted| wanted.name() != element) {
        return Err(given());
    }
    // The shape of an optional input is that of nothing that is named here.
    let Some(wanted) = port.shape.as_deref().filter(|_| port.kind == OnnxKind::Tensor) else { return Ok(()) };
    let fits = |(wanted, given): (&OnnxDim, &u64)| !matches!(wanted, OnnxDim::Fixed(len) if len != given);
    if wanted.len() != shape.len() || !wanted.iter().zip(shape).all(fits) {
        return Err(given());
    }
    Ok(())
}

/// Holds dimensions that the model gives one name against each other, over all that is given of `ports`.
///
/// # Errors
/// [`Error::InvalidArgument`] with both inputs and lengths.
pub(super) fn check_names(file: &str, ports: &[OnnxPort], given: &[Option<Input<'_>>]) -> Result<()> {
    let mut known: HashMap<&str, (&OnnxPort, usize, u64)> = HashMap::new();
    for (port, input) in ports.iter().zip(given) {
        let Some(wanted) = port.shape.as_deref().filter(|_| port.kind == OnnxKind::Tensor) else { continue };
        let shape = match input {
            Some(Input::Tensor(view)) => view.shape,
            Some(Input::Value(value)) => value.shape(),
            None => continue,
        };
        for (place, (dim, len)) in wanted.iter().zip(shape).enumerate() {
            let OnnxDim::Named(name) = dim else { continue };
            // Exporters put "?" and "None" wherever they know nothing.
            let names = name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name != "None";
            if !names {
                continue;
            }
            let (first, first_place, wanted) = *known.entry(name).or_insert((port, place, *len));
            if wanted != *len {
                return Err(Error::InvalidArgument(format!(
                    "{file}: dimension \"{name}\" is {wanted} in input \"{}\" (its dimension {first_place}) and {len} in \
                     input \"{}\" (its dimension {place}); dimensions of one name have one length",
                    first.name, port.name
                )));
            }
        }
    }
    Ok(())
}

/// Rows that a tensor has: what kernels compute at once with the same weights. Numbers of tokens are not rows of features
/// yet: each becomes one.
pub(super) fn rows(element: Option<ElementType>, shape: &[u64]) -> u64 {
    let ids = matches!(element, Some(ElementType::Int32 | ElementType::Int64));
    let outer = if ids { shape } else { shape.split_last().map_or(shape, |(_, outer)| outer) };
    outer.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::element::ElementType;
    use crate::onnx::value::TensorData;
    use crate::onnx::value::TensorView;

    fn port(shape: Option<Vec<OnnxDim>>) -> OnnxPort {
        let element = Some(ElementType::Float32);
        OnnxPort {
            name: "x".into(),
            kind: OnnxKind::Tensor,
            type_name: None,
            element,
            shape,
            optional: false,
        }
    }

    #[test]
    fn dimensions_of_one_name_have_one_length() {
        let named = |name: &str, dims: &[&str]| OnnxPort {
            name: name.into(),
            ..port(Some(dims.iter().map(|dim| OnnxDim::Named((*dim).into())).collect()))
        };
        let ports = [named("x", &["batch", "n"]), named("mask", &["n"]), named("y", &["batch"])];
        let check_them = |shapes: [Option<&[u64]>; 3]| {
            let data = TensorData::Bytes(&[]);
            let view = |shape| Input::Tensor(TensorView { element: ElementType::Float32, shape, data });
            check_names("m.cgraph", &ports, &shapes.map(|shape| shape.map(view)))
        };
        assert!(check_them([Some(&[2, 5]), Some(&[5]), Some(&[2])]).is_ok());
        assert!(check_them([None, Some(&[5]), Some(&[2])]).is_ok());
        let why = check_them([Some(&[2, 5]), Some(&[5]), Some(&[3])]).unwrap_err().to_string();
        let wanted = "dimension \"batch\" is 2 in input \"x\" (its dimension 0) and 3 in input \"y\" (its dimension 0)";
        assert!(why.contains(wanted), "{why}");
        let why = check_them([Some(&[5, 4]), Some(&[5]), None]).unwrap_err().to_string();
        assert!(why.contains("\"n\" is 4 in input \"x\" (its dimension 1) and 5 in input \"mask\""), "{why}");
    }

    #[test]
    fn messages_say_what_is_wanted_and_what_was_given() {
        let shaped = port(Some(vec![OnnxDim::Named("batch".into()), OnnxDim::Fixed(2), OnnxDim::Any(())]));
        let check_it = |port: &OnnxPort, element, shape: &[u64], bytes: usize| {
            let data = vec![0u8; bytes];
            let view = TensorView { element, shape, data: TensorData::Bytes(&data) };
            check("m.cgraph", port, &Input::Tensor(view)).map_err(|error| error.to_string())
        };
        let float = ElementType::Float32;
        assert_eq!(check_it(&shaped, float, &[7, 2, 3], 168), Ok(()));
        assert_eq!(check_it(&port(None), float, &[], 4), Ok(()));
        let wanted = "where x (float32[batch, 2, ?]) is wanted";
        for (element, shape, bytes) in
            [(ElementType::Int64, &[7, 2, 3][..], 336), (float, &[2, 3], 24), (float, &[7, 3, 3], 252)]
        {
            let why = check_it(&shaped, element, shape, bytes).unwrap_err();
            assert!(why.contains(wanted) && why.contains(&format!("{shape:?}")), "{why}");
        }
        let why = check_it(&shaped, float, &[7, 2, 3], 167).unwrap_err();
        assert!(why.contains("167 bytes") && why.contains("168"), "{why}");
        let why = check_it(&shaped, ElementType::String, &[7, 2, 3], 42).unwrap_err();
        assert!(why.contains("string"), "{why}");
        let why = find("m", "input", &[shaped], "y").unwrap_err().to_string();
        assert!(why.contains("x (float32[batch, 2, ?])"), "{why}");
    }
}
