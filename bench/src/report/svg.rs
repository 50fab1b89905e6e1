// SPDX-License-Identifier: Apache-2.0
//! A few shapes of SVG.

use std::fmt::Write as _;

/// An image under construction.
#[derive(Debug, Default)]
pub(crate) struct Svg {
    body: String,
}

/// Where a text stands by its point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

impl Svg {
    /// Adds a filled rectangle.
    pub(crate) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let shape = format!(r#"width="{width:.1}" height="{height:.1}" class="{class}""#);
        self.line(&format!(r#"<rect x="{x:.1}" y="{y:.1}" {shape}/>"#));
    }

    /// Adds a line.
    pub(crate) fn stroke(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let from = format!(r#"x1="{:.1}" y1="{:.1}""#, from.0, from.1);
        let to = format!(r#"x2="{:.1}" y2="{:.1}""#, to.0, to.1);
        self.line(&format!(r#"<line {from} {to} class="{class}"/>"#));
    }

    /// Adds text.
    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let place = format!(r#"x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}""#);
        self.line(&format!("<text {place}>{}</text>", escape(text)));
    }

    /// The whole image.
    pub(crate) fn finish(self, width: f64, height: f64, style: &str, title: &str) -> String {
        let mut text = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" "#
        );
        let _ = writeln!(text, r#"width="{width:.0}" height="{height:.0}" role="img">"#);
        let _ = writeln!(text, "<title>{}</title>\n<style>{style}</style>", escape(title));
        text + &self.body + "</svg>\n"
    }

    fn line(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Control characters, which error messages may hold, are not allowed in XML at all.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b> & \u{1b}c"), "a&lt;b&gt; &amp;  c");
    }
}
