//! Something that changes over time, with what happened when.

use plotters::prelude::*;

use super::{Area, COLOURS, FONT, Failed, legend};

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Seconds, and a value in the unit of the axis.
    pub points: Vec<(f64, f64)>,
}

/// Lines over time, and events.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// What the values are, with their unit.
    pub axis: String,
    /// Lines.
    pub lines: Vec<Line>,
    /// Seconds, and what happened, in a few words.
    pub events: Vec<(f64, String)>,
}

/// Pixels for a name of an event.
const EVENT: i32 = 15;

impl Timeline {
    /// Draw it, with its legend; the names of the events stand above the lines, each at its moment.
    ///
    /// # Errors
    /// Of the backend.
    pub fn paint<DB: DrawingBackend>(&self, area: &Area<DB>) -> Result<(), Failed>
    where
        DB::ErrorType: 'static,
    {
        let colours = || COLOURS.iter().copied().cycle();
        let named = self
            .lines
            .iter()
            .map(|line| line.name.clone())
            .zip(colours());
        let area = legend(area, &named.collect::<Vec<_>>())?;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let end = points().map(|p| p.0).chain(self.events.iter().map(|e| e.0));
        let end = end.fold(f64::MIN_POSITIVE, f64::max);
        let highest = points().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
        let head = i32::try_from(self.events.len())? * EVENT + 8;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(head)
            .margin_left(12)
            .margin_right(24)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end * 1.12, 0.0..highest * 1.06)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.08))
            .x_desc("seconds")
            .y_desc(&self.axis)
            .label_style((FONT, 13))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(colours()) {
            chart.draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour.stroke_width(2),
            ))?;
        }
        let place = area.get_pixel_range();
        let (left, top) = (place.0.start, place.1.start);
        for ((at, what), n) in self.events.iter().zip(0..) {
            let foot = chart.backend_coord(&(*at, 0.0));
            let x = foot.0 - left;
            let y = 2 + n * EVENT;
            let style = BLACK.mix(0.45).stroke_width(1);
            area.draw(&PathElement::new(vec![(x, y), (x, foot.1 - top)], style))?;
            // Where it would run out of the picture, on the other side of its moment.
            let width = (FONT, 12)
                .into_font()
                .box_size(what)
                .map_err(|e| e.to_string())?
                .0;
            let width = i32::try_from(width)?;
            let right = i32::try_from(area.dim_in_pixel().0)?;
            let beside = match x + 5 + width > right {
                true => x - 5 - width,
                false => x + 5,
            };
            area.draw(&Text::new(what.clone(), (beside, y), (FONT, 12)))?;
        }
        Ok(())
    }
}
