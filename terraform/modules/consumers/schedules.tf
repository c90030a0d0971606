# Rules of EventBridge, not its Scheduler: they need no role of their own to call a function, both
# emulators apply them, and ministack fires them.
resource "aws_cloudwatch_event_rule" "this" {
  for_each = var.schedules

  name                = "${var.name}-${each.key}"
  description         = "Calls ${var.name}-${each.value.function}"
  schedule_expression = each.value.expression
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "this" {
  for_each = var.schedules

  rule = aws_cloudwatch_event_rule.this[each.key].name
  arn  = module.function[each.value.function].function.arn
  # Without one the function gets EventBridge's own event, which says nothing more.
  input = length(each.value.input) > 0 ? jsonencode(each.value.input) : null
}

resource "aws_lambda_permission" "schedule" {
  for_each = var.schedules

  statement_id  = replace(title(replace(each.key, "-", " ")), " ", "")
  action        = "lambda:InvokeFunction"
  function_name = module.function[each.value.function].function.name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.this[each.key].arn
}

# What a schedule asked for and could not be done is asked for again by the next one. An event waits
# for an hour at most while the one before it is at work.
resource "aws_lambda_function_event_invoke_config" "this" {
  for_each = toset([for one in values(var.schedules) : one.function])

  function_name                = module.function[each.key].function.name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 3600
}
