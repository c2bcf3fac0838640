// Stands before Abseil's header of this name, for the reason that `check.h` gives: fatal lines end the process, others go nowhere.
#ifndef IMGBUILD_ABSL_LOG_LOG_H_
#define IMGBUILD_ABSL_LOG_LOG_H_

#include "absl/log/check.h"

#define IMGBUILD_LOG_INFO ::imgbuild::Nothing()
#define IMGBUILD_LOG_WARNING ::imgbuild::Nothing()
#define IMGBUILD_LOG_ERROR ::imgbuild::Nothing()
#define IMGBUILD_LOG_FATAL ::imgbuild::Failure(__FILE__, __LINE__, "fatal")
#define LOG(severity) IMGBUILD_LOG_##severity
#define LOG_IF(severity, condition) while (false && (condition)) ::imgbuild::Nothing()
#define VLOG(level) while (false) ::imgbuild::Nothing()
#define DVLOG(level) VLOG(level)
#define DLOG(severity) VLOG(0)
#define VLOG_IS_ON(level) false

#endif
