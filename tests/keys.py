"""age keys for tests. They protect nothing; they are written down so that test ids stay the same."""

from __future__ import annotations

PUBLIC = "age188uk8q7prhssmqtqvte8zvec3vmvwxexqgdm42trqhrqhx9pkfaq48qpeg"
PRIVATE = "AGE-SECRET-KEY-1AUGS0JHG7HUQK4NMAL56DHMTR6NQLS2JPR00UVQ807AUH2JKHSVS7EHR6T"
OTHER_PUBLIC = "age1acsj7hkxyvr96zqd7xj6lak3wvzryhtjesjkyyeqfspxet60ds5srm5dr6"
OTHER_PRIVATE = "AGE-SECRET-KEY-1V3WNKZAKL82DWV2PRK5SXMR5GFPAWY2ZJCXJDJAWR7YVT23VX8SSGE3VZ6"
